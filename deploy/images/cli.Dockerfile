# The command line, for a terminal and for jobs in a cluster. The one image with a shell and tar in it: it also is the
# small pod that models are copied to. The folders come from build.py.
ARG BASE=localhost/tacit-base
FROM ${BASE}
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY libraries/ /usr/local/lib/python3.11/dist-packages/
COPY program/ /
# Byte code by the hash of its source: the file system is read-only where this runs, and times say nothing.
RUN ["/usr/bin/python3.11", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/usr/local/lib/python3.11/dist-packages"]
USER 65532:65532
ENV HOME=/run/tacit
WORKDIR /run/tacit
ENTRYPOINT ["tacit"]

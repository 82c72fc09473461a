# The coordinator, and what it may load. The folders come from build.py.
ARG BASE=localhost/tacit-base
FROM ${BASE}
COPY libraries/ /usr/local/lib/python3.11/dist-packages/
COPY program/ /
# Byte code by the hash of its source: the file system is read-only where this runs, and times say nothing.
RUN ["/usr/bin/python3.11", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/usr/local/lib/python3.11/dist-packages"]
USER 65532:65532
WORKDIR /run/tacit
EXPOSE 4433 2001
ENTRYPOINT ["tacit-coordinator"]

# The admission webhook: runs in the cluster, in no TEE, and sees no secret. The folders come from build.py.
ARG BASE=localhost/tacit-base
FROM ${BASE}
COPY libraries/ /usr/local/lib/python3.11/dist-packages/
COPY program/ /
# Byte code by the hash of its source: the file system is read-only where this runs, and times say nothing.
RUN ["/usr/bin/python3.11", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/usr/local/lib/python3.11/dist-packages"]
USER 65532:65532
EXPOSE 8443
ENTRYPOINT ["tacit-injector"]

# A model server: premain activates it, and becomes tacit-serve with the arguments of the manifest or, where that names
# none, with those given here. The folders come from build.py.
ARG BASE=localhost/tacit-base
FROM ${BASE}
COPY libraries/ /usr/local/lib/python3.11/dist-packages/
COPY program/ /
# Byte code by the hash of its source: the file system is read-only where this runs, and times say nothing.
RUN ["/usr/bin/python3.11", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/usr/local/lib/python3.11/dist-packages"]
USER 65532:65532
WORKDIR /run/tacit
EXPOSE 8500 8501
ENTRYPOINT ["tacit-premain"]
CMD ["tacit-serve", "--model_name=resnet50", "--model_base_path=/models/resnet50-v15-fp32", "--port=8500", "--rest_api_port=8501"]

# A server that somebody else wrote, behind premain: TensorFlow Serving's own binary, as its makers publish it.
# premain activates it, places its files, decrypts the model into memory (EDG_DECRYPT_MODEL=1) and becomes it.
#   buildah bud --build-arg SERVER=IMAGE --build-arg BINARY=/usr/bin/NAME -f deploy/images/foreign.Dockerfile .
ARG SERVER=docker.io/tensorflow/serving:2.19.1
ARG PREMAIN=localhost/tacit-premain:0.1.0
FROM ${SERVER} AS server
FROM ${PREMAIN}
ARG BINARY=/usr/bin/tensorflow_model_server
COPY --from=server ${BINARY} /usr/bin/

# The layer under every image: the archive of base.sh, or one like it that was made elsewhere.
FROM scratch
ARG ARCHIVE=base.tar
ADD ${ARCHIVE} /
ENV LANG=C.UTF-8

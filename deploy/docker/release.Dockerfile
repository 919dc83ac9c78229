# The image of a release: the binary that goreleaser built, see .goreleaser.yaml.
# docker/Dockerfile builds from source.
FROM --platform=$BUILDPLATFORM golang:1.26 AS certificates

FROM scratch
ARG TARGETPLATFORM
# Certificates of the public authorities, for TLS to hosted servers.
COPY --from=certificates /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY $TARGETPLATFORM/ffstream /ffstream
USER 65532:65532
ENV FFSTREAM_HTTP_ADDR=:9464 FFSTREAM_LOG_FORMAT=json
EXPOSE 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["/ffstream"]
CMD ["run"]

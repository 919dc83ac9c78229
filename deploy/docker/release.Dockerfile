# The image of a release: the binary that goreleaser built, see .goreleaser.yaml.
# docker/Dockerfile builds from source.
FROM gcr.io/distroless/static-debian12:nonroot
COPY ffstream /ffstream
USER 65532:65532
ENV FFSTREAM_HTTP_ADDR=:9464 FFSTREAM_LOG_FORMAT=json
EXPOSE 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["/ffstream"]
CMD ["run"]

# docker build -f docker/cpu.Dockerfile -t pipeline:cpu \
#     --build-arg TORCH_INDEX_URL=<the CPU index that PyTorch's install page names> .
# docker run --rm -v "$PWD:/data" pipeline:cpu detect /data/my_video.mp4
FROM python:3.11-slim-bookworm
# Without the index the ordinary build of torch is taken: it works, with gigabytes of unused CUDA.
ARG TORCH_INDEX_URL=""
WORKDIR /opt/pipeline
COPY constraints.txt .
RUN pip install --no-cache-dir -c constraints.txt \
    ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch torchaudio
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[dashboard]' \
 && useradd --uid 1000 --create-home runner && mkdir /data && chown runner /data
# By number, so that a cluster can see that it is not root.
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["pipeline"]
CMD ["doctor"]

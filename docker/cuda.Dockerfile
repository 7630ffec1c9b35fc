# docker build -f docker/cuda.Dockerfile -t pipeline:cuda .
# docker run --rm --gpus all -v "$PWD:/data" pipeline:cuda detect /data/my_video.mp4
# The CUDA build of torch brings its own CUDA libraries: the host needs only the driver.
FROM python:3.11-slim-bookworm
WORKDIR /opt/pipeline
COPY constraints.txt .
RUN pip install --no-cache-dir -c constraints.txt torch torchaudio
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[dashboard]' \
 && useradd --uid 1000 --create-home runner && mkdir /data && chown runner /data
# By number, so that a cluster can see that it is not root.
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["pipeline"]
CMD ["doctor"]

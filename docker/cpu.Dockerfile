# docker build -f docker/cpu.Dockerfile -t pipeline:cpu .
# docker run --rm -v "$PWD:/data" pipeline:cpu detect /data/my_video.mp4
FROM python:3.11-slim
WORKDIR /opt/pipeline
# The CPU build of torch comes from PyTorch's own index; everything else is ordinary.
COPY constraints.txt .
RUN pip install --no-cache-dir -c constraints.txt torch torchaudio \
    --index-url https://download.pytorch.org/whl/cpu
COPY . .
RUN pip install --no-cache-dir -c constraints.txt . \
 && useradd --create-home runner && mkdir /data && chown runner /data
USER runner
WORKDIR /data
ENTRYPOINT ["pipeline"]
CMD ["doctor"]

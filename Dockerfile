# flashdiff with its page, its API and its model; from the wheel, as a user without rights.
#   docker build -t flashdiff .                                   for the CPU
#   docker build -t flashdiff:cuda --build-arg TORCH=cu126 .      for NVIDIA GPUs (any CUDA version that PyTorch publishes)
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY flashdiff flashdiff
COPY flashdiff_cli flashdiff_cli
COPY weights weights
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH=cpu
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_WAIT_POLICY=PASSIVE
COPY constraints-web.txt /tmp/
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-compile --index-url "https://download.pytorch.org/whl/${TORCH}" torch \
    && pip install --no-cache-dir --no-compile -c /tmp/constraints-web.txt "$(ls /wheels/*.whl)[web,heic]" \
    && rm /tmp/constraints-web.txt
RUN useradd --uid 10001 --create-home flashdiff && install -d -o flashdiff /pictures
USER flashdiff
WORKDIR /pictures
# What is loaded from the Hub, if anything: mount a volume here to keep it.
ENV HF_HOME=/home/flashdiff/models
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/api/health', timeout=4)"]
ENTRYPOINT ["flashdiff"]
# Where it is reached by another name, give that: the page of another site may have its own name pointed here.
CMD ["serve", "--host", "0.0.0.0", "--allow-host", "localhost", "--offline"]

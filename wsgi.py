"""For WSGI servers: ``gunicorn wsgi:app``. Settings come from the environment (PERFGATE_…)."""

from perfgate_server.wsgi import create_wsgi_app

app = create_wsgi_app()

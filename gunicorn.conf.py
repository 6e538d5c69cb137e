"""Read by gunicorn from the working directory: the settings that perfgate-server itself uses."""

from perfgate_server.wsgi import wsgi_settings

globals().update(wsgi_settings())

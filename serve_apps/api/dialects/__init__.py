"""The API's dialects, a file each; `serve_apps.api.app` lists them."""

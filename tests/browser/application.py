"""A Django application that knows nothing of the gateway in front of it.

It has its own redirects, cookies, forms with Django's CSRF protection, an upload, and an event stream. It prints its
port and serves until it is killed.
"""

import hashlib
import sys
from socketserver import ThreadingMixIn

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    DEBUG=False,
    LOGGING_CONFIG=None,
    MESSAGE_STORAGE="django.contrib.messages.storage.cookie.CookieStorage",
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    INSTALLED_APPS=["django.contrib.messages"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for tests of a browser, in front of no real data",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "context_processors": [
                    "django.contrib.messages.context_processors.messages",
                    "django.template.context_processors.request",
                ]
            },
        }
    ],
    USE_TZ=True,
)
django.setup()

from django import forms  # noqa: E402
from django.contrib import messages  # noqa: E402
from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.core.servers.basehttp import WSGIRequestHandler, WSGIServer  # noqa: E402
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse  # noqa: E402
from django.shortcuts import redirect  # noqa: E402
from django.template import engines  # noqa: E402
from django.urls import path  # noqa: E402

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ title }}</title><link rel="icon" href="data:,"></head>
<body>
<h1>{{ title }}</h1>
<p>Signed in as <b id="user">{{ request.META.HTTP_X_FORWARDED_EMAIL }}</b></p>
<p>Path <code id="path">{{ request.path }}</code>, query <code id="query">{{ request.META.QUERY_STRING }}</code>,
fragment <code id="fragment"></code></p>
{% for message in messages %}<p class="message">{{ message }}</p>{% endfor %}
{% if form %}<form method="post" enctype="multipart/form-data">{% csrf_token %}{{ form.as_p }}
<button id="send">Send</button></form>{% endif %}
<script>document.getElementById("fragment").textContent = location.hash;</script>
</body>
</html>
"""


class NoteForm(forms.Form):
    text = forms.CharField(max_length=100)


class UploadForm(forms.Form):
    file = forms.FileField()


def page(request, title, form=None, status=200):
    text = engines["django"].from_string(PAGE).render({"title": title, "form": form}, request)
    return HttpResponse(text, status=status)


def home(request):
    return page(request, "Home")


def reports(request):
    return page(request, "Reports")


def public(request):
    return page(request, "Public")


def old_reports(request):
    """Redirects as applications do, with the query."""
    return redirect("/reports/?" + request.META["QUERY_STRING"])


def note(request):
    """A form that redirects once it has been sent."""
    form = NoteForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        messages.success(request, "Saved: " + form.cleaned_data["text"])
        return redirect("/note/")
    return page(request, "Note", form, status=400 if request.method == "POST" else 200)


def upload(request):
    form = UploadForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        content = form.cleaned_data["file"].read()
        digest = hashlib.sha256(content).hexdigest()
        messages.success(request, f"Received {len(content)} bytes, SHA-256 {digest}")
        return redirect("/upload/")
    return page(request, "Upload", form)


def data(request):
    return JsonResponse({"user": request.headers.get("X-Forwarded-Email"), "method": request.method})


def events(request):
    def stream():
        yield "data: begun\n\n"

    return StreamingHttpResponse(stream(), content_type="text/event-stream")


urlpatterns = [
    path("", home),
    path("public/", public),
    path("reports/", reports),
    path("old-reports/", old_reports),
    path("note/", note),
    path("upload/", upload),
    path("api/data", data),
    path("api/events", events),
]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), QuietHandler, ipv6=False)
    server.set_app(WSGIHandler())
    print(server.server_port, flush=True)
    sys.stdin.close()
    server.serve_forever()

"""The page's server: who may ask, and what is answered."""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from basis_cli.api import BasisError, InputError

from .form import offered
from .jobs import LARGEST_FILE, Jobs

STATIC = Path(__file__).with_name("static")
EXAMPLES = {
    "digits.png": "separate",
    "horse.gray.png": "colorize",
    "horse.png": "inpaint",
    "double.png": "separate",
}
"""Pictures to try, and what with."""
LARGEST_FORM = 100_000
OURS = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
OURS += "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
REPORT = "sandbox allow-scripts allow-downloads; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
REPORT += "script-src 'unsafe-inline'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def application(jobs: Jobs, hosts: set[str]) -> Starlette:
    """The page of ``jobs``, for requests to one of ``hosts``, each ``name:port``."""
    cookie = f"basis-{sorted(hosts)[0].rpartition(':')[2]}"

    def guarded(answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def checked(request: Request) -> Response:
            try:
                return await answer(request)
            except BasisError as error:
                return _refused(400, error.message, error.hint)

        return checked

    async def guard(request: Request, call: Callable[[Request], Any]) -> Response:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if host not in hosts:
            response = _refused(421, "this server has another name", "open the address that it printed")
        elif origin is not None and origin not in {f"http://{name}" for name in hosts}:
            response = _refused(403, "another site asked for this")
        elif not _knows(request, jobs.token, cookie):
            words = "open the address that basis ui printed"
            response = _refused(403, "the address lacks its secret", words)
            if request.url.path == "/" and request.method == "GET":
                response = HTMLResponse(f"<!doctype html><title>basis</title><p>Please {words}.", 403)
        elif request.url.path == "/" and "token" in request.query_params:
            response = RedirectResponse("/", 303)
            response.set_cookie(cookie, jobs.token, httponly=True, samesite="strict", max_age=30 * 86400)
        else:
            response = await call(request)
        for name, value in {"Content-Security-Policy": OURS, **HEADERS}.items():
            response.headers.setdefault(name, value)
        return response

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        working = asyncio.create_task(jobs.work())
        yield
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working

    api = Api(jobs)
    routes = [
        Route("/", api.page),
        Route("/static/{name}", api.static),
        Route("/examples/{name}", api.example),
        Route("/api/offered", api.offered),
        Route("/api/uploads", guarded(api.upload), methods=["POST"]),
        Route("/api/uploads/{id}", guarded(api.preview)),
        Route("/api/jobs", guarded(api.jobs_), methods=["GET"]),
        Route("/api/jobs", guarded(api.add), methods=["POST"]),
        Route("/api/jobs/{id}", guarded(api.job), methods=["GET"]),
        Route("/api/jobs/{id}", guarded(api.remove), methods=["DELETE"]),
        Route("/api/jobs/{id}/cancel", guarded(api.cancel), methods=["POST"]),
        Route("/api/jobs/{id}/all.zip", guarded(api.archive)),
        Route("/api/jobs/{id}/{name}", guarded(api.file)),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _failed, 500: _failed})
    app.add_middleware(_Guard, guard=guard)
    return app


class _Guard:
    """Every request goes through ``guard`` first. (Starlette's own base class would hold back what streams.)"""

    def __init__(self, app: Any, guard: Callable[..., Any]):
        self.app, self.guard = app, guard

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        passed = Passed()

        async def call(request: Request) -> Passed:
            return passed

        response = await self.guard(Request(scope, receive), call)
        if response is not passed:
            await response(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                added = [(k.lower().encode(), v.encode()) for k, v in passed.headers.items()]
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in known)]
            await send(message)

        await self.app(scope, receive, with_headers)


class Passed(Response):
    """Stands for the answer of the application, which is yet to come, and holds the headers for it."""

    def __init__(self) -> None:
        self.headers_: dict[str, str] = {}

    @property
    def headers(self) -> Any:
        return self.headers_


class Api:
    """What each address answers."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs

    async def page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def static(self, request: Request) -> Response:
        return _one_of([STATIC / "app.js", STATIC / "app.css"], request)

    async def example(self, request: Request) -> Response:
        own = STATIC.with_name("examples")
        folder = own if own.is_dir() else Path(__file__).parents[2] / "examples"  # a checkout
        return _one_of([folder / name for name in EXAMPLES], request)

    async def offered(self, request: Request) -> Response:
        return JSONResponse({"tasks": offered(), "examples": EXAMPLES, "largest": LARGEST_FILE})

    async def upload(self, request: Request) -> Response:
        data = await _body(request, LARGEST_FILE, "a file")
        name = unquote(request.headers.get("x-name", ""))[:300]
        return JSONResponse(await asyncio.to_thread(self.jobs.upload, data, name), 201)

    async def preview(self, request: Request) -> Response:
        return FileResponse(self.jobs.uploaded(request.path_params["id"]).with_name("preview.png"))

    async def jobs_(self, request: Request) -> Response:
        return JSONResponse([self.jobs.get(job["id"]) for job in self.jobs.all()[:100]])

    async def add(self, request: Request) -> Response:
        try:
            form = json.loads(await _body(request, LARGEST_FORM, "a form"))
        except ValueError:
            form = None
        if not isinstance(form, dict):
            raise InputError("this is no form", "a JSON object")
        return JSONResponse(self.jobs.add(form), 201)

    async def job(self, request: Request) -> Response:
        return JSONResponse(self.jobs.get(request.path_params["id"]))

    async def cancel(self, request: Request) -> Response:
        return JSONResponse(await self.jobs.cancel(request.path_params["id"]))

    async def remove(self, request: Request) -> Response:
        await self.jobs.remove(request.path_params["id"])
        return JSONResponse({})

    async def file(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["id"])
        response = _one_of(self.jobs.files(job["id"]), request)
        if request.path_params["name"].endswith(".html"):
            response.headers["Content-Security-Policy"] = REPORT
        return response

    async def archive(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["id"])
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for file in self.jobs.files(job["id"]):
                if file.name not in ("preview.png", "forming.png"):
                    archive.write(file, file.name)
        name = f"{Path(job['input']).stem}.zip"
        headers = {"Content-Disposition": f'attachment; filename="{name.encode("ascii", "replace").decode()}"'}
        return Response(data.getvalue(), media_type="application/zip", headers=headers)


def _one_of(files: Iterable[Path], request: Request) -> Response:
    """That of the ``files`` which the request names, and no other."""
    file = {file.name: file for file in files}.get(request.path_params["name"])
    if file is None or not file.is_file():
        raise HTTPException(404)
    return FileResponse(file)


async def _body(request: Request, most: int, what: str) -> bytes:
    """What was sent, which is not read on when it is too long."""
    data = bytearray()
    words = f"{what} may have {most / 2**20:.0f} MB" if most >= 2**20 else f"{what} may have {most} bytes"
    try:
        if int(request.headers.get("content-length") or 0) > most:
            raise InputError(words, "a smaller one")
        async for chunk in request.stream():
            data += chunk
            if len(data) > most:
                raise InputError(words, "a smaller one")
    except (ClientDisconnect, ValueError) as error:
        raise InputError("it did not come whole", "send it again") from error
    return bytes(data)


def _knows(request: Request, token: str, cookie: str) -> bool:
    given = [request.cookies.get(cookie), request.query_params.get("token")]
    return any(secrets.compare_digest(each.encode(), token.encode()) for each in given if each)


def _refused(status: int, message: str, hint: str = "") -> Response:
    return JSONResponse({"error": message, "hint": hint}, status)


async def _failed(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "there is nothing of that name", 405: "this cannot be done here"}
    return _refused(status, words.get(status, "something went wrong in the server"))

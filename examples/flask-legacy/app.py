"""A book catalogue with JWT sign-in, as many a tutorial builds it. It has never heard of a gateway.

Tokens are signed with a shared secret (HS256) and are good until they expire: there is no log-out, and
nothing here could make one. That is the gap that Portcullis fills from outside (see README.md).
"""

import argparse
import datetime
import os
import pathlib

from flask import Flask, jsonify, request
from flask_jwt_extended import (
    JWTManager,
    create_access_token,
    create_refresh_token,
    get_jwt_identity,
    jwt_required,
)
from waitress.server import create_server
from werkzeug.security import check_password_hash, generate_password_hash

HERE = pathlib.Path(__file__).resolve().parent
SECRET_FILE = pathlib.Path(os.environ.get("CATALOGUE_SECRET_FILE", HERE / "secrets" / "jwt"))


def create_app():
    """The whole API, with its users and books in memory."""
    app = Flask(__name__)
    app.config["JWT_SECRET_KEY"] = SECRET_FILE.read_text().removesuffix("\n")
    app.config["JWT_ACCESS_TOKEN_EXPIRES"] = datetime.timedelta(minutes=15)
    app.config["JWT_REFRESH_TOKEN_EXPIRES"] = datetime.timedelta(days=30)
    JWTManager(app)

    users = {"ada@example.com": generate_password_hash("correct horse 1!")}
    books = [{"id": 1, "title": "Notes on the Analytical Engine", "author": "Ada Lovelace"}]

    @app.get("/health")
    def health():
        return jsonify(status="ok")

    @app.post("/login")
    def login():
        body = request.get_json(silent=True)
        if not isinstance(body, dict):
            return jsonify(error="send a JSON object"), 400
        email, password = body.get("email"), body.get("password")
        if not isinstance(email, str) or not isinstance(password, str):
            return jsonify(error="email and password are required"), 400
        if email not in users or not check_password_hash(users[email], password):
            return jsonify(error="bad email or password"), 401
        return jsonify(
            access_token=create_access_token(identity=email, fresh=True),
            refresh_token=create_refresh_token(identity=email),
        )

    @app.post("/refresh")
    @jwt_required(refresh=True)
    def refresh():
        return jsonify(access_token=create_access_token(identity=get_jwt_identity(), fresh=False))

    @app.get("/books")
    @jwt_required()
    def list_books():
        return jsonify(books=books)

    @app.post("/books")
    @jwt_required()
    def add_book():
        body = request.get_json(silent=True)
        title = body.get("title") if isinstance(body, dict) else None
        if not isinstance(title, str) or not title.strip():
            return jsonify(error="title is required"), 400
        book = {"id": len(books) + 1, "title": title, "author": body.get("author"), "added_by": get_jwt_identity()}
        books.append(book)
        return jsonify(book), 201

    @app.get("/books/<int:number>")
    @jwt_required()
    def one_book(number):
        found = next((book for book in books if book["id"] == number), None)
        return (jsonify(found), 200) if found else (jsonify(error="no such book"), 404)

    return app


def main():
    """Serves the catalogue on loopback and says where."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--port", type=int, default=5000, help="0 picks a free one (default: 5000)")
    server = create_server(create_app(), host="127.0.0.1", port=arguments.parse_args().port)
    print(f"catalogue listening on 127.0.0.1:{server.effective_port}", flush=True)
    server.run()


if __name__ == "__main__":
    main()

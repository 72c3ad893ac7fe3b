"""A browser without a screen on the console: cookies, forms with their token, redirects."""

import re
from html import unescape

import httpx


class Browser:
    """One visitor.

    Args:
        client: speaks HTTP to the console and keeps its cookie.
    """

    def __init__(self, client: httpx.Client) -> None:
        self.http = client
        self.token = ""

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Fetches a page; forms that are sent next carry the token of this one."""
        answer = self.http.get(path, headers=headers)
        if found := re.search(r'name="form-token" content="(\w+)"', answer.text):
            self.token = found[1]
        return answer

    def page(self, path: str) -> str:
        """Fetches a page that must be there; returns its text as a person reads it, without tags."""
        answer = self.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {readable(answer.text)}"
        return readable(answer.text)

    def send(self, path: str, **fields: str) -> httpx.Response:
        """Sends a form with the token of the page that was fetched last."""
        return self.http.post(path, data={"form_token": self.token} | fields)

    def change(self, path: str, **fields: str) -> str:
        """Sends a form that must lead on to a page; returns that page's text."""
        answer = self.send(path, **fields)
        assert answer.status_code == 303, f"{path}: {answer.status_code} {readable(answer.text)}"
        return self.page(answer.headers["location"])

    def sign_in(self, key: str) -> httpx.Response:
        self.get("/signin")
        return self.send("/signin", key=key)


def readable(html: str) -> str:
    """A page's text in one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())

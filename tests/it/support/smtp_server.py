"""A mail server for tests: aiosmtpd with TLS and a login. Each line on standard
output is a JSON document: first the port, then one per mail that was taken.

Arguments: how it is protected (starttls, implicit, none), certificate, key, the
password of `lifeboat`, and how many mails are put off before one is taken.
"""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

protection, certificate, key, password, put_off = sys.argv[1:6]


class Handler:
    left = int(put_off)

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 5.1.1 no such mailbox: " + address
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        if self.left > 0:
            self.left -= 1
            return "451 4.3.0 later"
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "login": session.auth_data.login.decode() if session.auth_data else None,
            "is_encrypted": session.ssl is not None or protection == "implicit",
            "text": envelope.content.decode(),
        }
        print(json.dumps(mail), flush=True)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    is_right = (
        isinstance(data, LoginPassword) and data.login == b"lifeboat" and data.password == password.encode()
    )
    return AuthResult(success=is_right, handled=False, auth_data=data)


async def main():
    context = None
    if protection != "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    options = {}
    if protection == "starttls":
        options = {"tls_context": context, "require_starttls": True}
    if protection != "none":
        options.update(
            authenticator=authenticate, auth_required=True, auth_require_tls=protection == "starttls"
        )
    handler = Handler()
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(handler, hostname="localhost", **options),
        "127.0.0.1",
        0,
        ssl=context if protection == "implicit" else None,
    )
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


asyncio.run(main())

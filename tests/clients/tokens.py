"""Tokens between Stentor and PyJWT, in both directions: what one signs, the other believes.

    python tests/clients/tokens.py path/to/stentor
"""

import json
import pathlib
import subprocess
import sys
import time

import jwt

STENTOR = sys.argv[1]
KEYS = pathlib.Path(__file__).parent.parent / "keys"
SECRET = (KEYS / "secret").read_text().strip()
PAIRS = {
    "HS256": None, "HS384": None, "HS512": None,
    "RS256": "rsa", "RS384": "rsa", "RS512": "rsa",
    "ES256": "p256", "ES384": "p384",
}


def stentor(*arguments):
    return subprocess.run([STENTOR, "token", *arguments], capture_output=True, text=True, timeout=30)


for algorithm, name in PAIRS.items():
    private = (KEYS / f"{name}.pem").read_text() if name else SECRET
    public = (KEYS / f"{name}.pub.pem").read_text() if name else SECRET
    keys = ["--token-public-keys", str(KEYS / f"{name}.pub.pem")] if name else ["--token-hmac-secret-files", str(KEYS / "secret")]
    claims = {"sub": "7", "info": {"name": "Änn"}, "exp": int(time.time()) + 60}
    theirs = jwt.encode(claims, private, algorithm=algorithm)
    checked = stentor("check", theirs, *keys)
    assert checked.returncode == 0 and '"7", called "Änn", until' in checked.stdout, (algorithm, checked)
    stale = jwt.encode({**claims, "exp": int(time.time()) - 1}, private, algorithm=algorithm)
    checked = stentor("check", stale, *keys)
    assert checked.returncode == 1 and "it has expired" in checked.stderr, (algorithm, checked)

    signing = ["--private-key", str(KEYS / f"{name}.pem")] if name else keys
    made = stentor("make", "--user", "7", "--info", json.dumps(claims["info"]), "--algorithm", algorithm, *signing)
    assert made.returncode == 0, (algorithm, made)
    ours = jwt.decode(made.stdout.strip(), public, algorithms=[algorithm])
    assert ours["sub"] == "7" and ours["info"] == claims["info"], (algorithm, ours)
    assert 3590 < ours["exp"] - time.time() <= 3600, (algorithm, ours)

secret = ["--token-hmac-secret-files", str(KEYS / "secret")]
now = int(time.time())


def check(claims):
    return stentor("check", jwt.encode(claims, SECRET, algorithm="HS256"), *secret)


# What limits a client is honoured or refused by name; lists are taken whole or not at all.
for claims, why in [
    ({"subs": {"a": {"expire_at": 5}}}, "`expire_at`"),
    ({"subs": {"a": {"override": {"max_rate": {"value": True}}}}}, "`override.max_rate`"),
    ({"channel": "a", "override": {"force_recovery": {"value": False}}}, "`force_recovery`"),
    ({"caps": [{"channels": ["a"], "allow": ["sub"]}]}, "`caps`"),
    ({"channel": "a", "client": "0b6f"}, "`client`"),
    ({"channels": ["a", None]}, "`channels` has an entry that is null"),
    ({"channels": [f"r{number}" for number in range(129)]}, "129 rooms are named"),
    ({"exp": -1}, "`exp` is no point of time"),
    ({"nbf": now + 60}, "(`nbf`)"),
    ({"iat": now + 60}, "(`iat`)"),
]:
    checked = check(claims)
    assert checked.returncode == 1 and why in checked.stderr, (claims, checked)
for claims, printed in [
    ({"sub": None, "exp": None, "channels": None, "subs": None, "info": None}, "without an end"),
    ({"channels": ["b", "a", "b"], "subs": {"a": {"info": 1}}}, 'in the rooms "b", "a"'),
    ({"exp": str(now + 60)}, "until 20"),
    ({"exp": 10**18}, "(for 11months 30days"),
    ({"nbf": now + 2, "iat": now + 2}, "without an end"),
]:
    checked = check(claims)
    assert checked.returncode == 0 and printed in checked.stdout, (claims, checked)

unsigned = jwt.encode({"sub": "root"}, None, algorithm="none")
checked = stentor("check", unsigned, "--token-hmac-secret-files", str(KEYS / "secret"))
assert checked.returncode == 1, checked
print(f"{len(PAIRS)} algorithms in both directions")

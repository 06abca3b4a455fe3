"""Makes tokens with PyJWT and joserfc, of every algorithm: a line of JSON for each, with its keys in every form there is."""

import json
import secrets
import sys
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwk, jwt as joserfc_jwt

SECRETS = {"HS256": 32, "HS384": 48, "HS512": 64}
KEYS = {
    **dict.fromkeys(["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"], lambda: rsa.generate_private_key(65537, 2048)),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def claims():
    """With times as each language's clock has them."""
    return {
        "iss": "https://tokens.example.org/",
        "aud": ["fanfare"],
        "sub": "ål\"ice/1",
        "iat": int(time.time()),
        "exp": time.time() + 3_600,
        "fanfare": {"roles": ["chat"], "publish": ["room/+"], "info": {"name": "\u00c5lice \U0001f600"}},
    }


def emit(maker, algorithm, keys, token):
    json.dump({"maker": maker, "algorithm": algorithm, "keys": keys, "token": token}, sys.stdout)
    print()


def pem(public):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.PEM, form).decode()


for algorithm, length in SECRETS.items():
    secret = secrets.token_hex(length // 2)
    key = jwt.get_algorithm_by_name(algorithm)
    forms = [secret, secret + "\n", key.to_jwk(secret)]
    emit("PyJWT", algorithm, forms, jwt.encode(claims(), secret, algorithm, headers={"kid": "a"}))
    key = jwk.OctKey.import_key(secret)
    forms = [secret, json.dumps(key.as_dict(private=True))]
    emit("joserfc", algorithm, forms, joserfc_jwt.encode({"alg": algorithm}, claims(), key, algorithms=[algorithm]))

for algorithm, make in KEYS.items():
    private = make()
    public = private.public_key()
    of_jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(public)
    emit("PyJWT", algorithm, [pem(public), of_jwk], jwt.encode(claims(), private, algorithm))
    kind = {"E": jwk.ECKey, "R": jwk.RSAKey, "P": jwk.RSAKey}[algorithm[0]] if algorithm != "EdDSA" else jwk.OKPKey
    private_pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = kind.import_key(private_pem, {"kid": "b", "use": "sig", "alg": algorithm})
    one = key.as_dict(private=False)
    forms = [json.dumps(one), json.dumps({"keys": [one]}), key.as_pem(private=False).decode()]
    header = {"alg": algorithm, "kid": "b", "typ": "at+jwt"}
    emit("joserfc", algorithm, forms, joserfc_jwt.encode(header, claims(), key, algorithms=[algorithm]))

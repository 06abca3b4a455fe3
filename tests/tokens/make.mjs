// Makes tokens with jose, of every algorithm: a line of JSON for each, with its keys in every form there is.

import { SignJWT, calculateJwkThumbprint, exportJWK, exportSPKI, generateKeyPair, generateSecret } from "jose";

const SECRETS = ["HS256", "HS384", "HS512"];
const KEYS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

async function emit(algorithm, key, keys, header) {
    const token = await new SignJWT({ fanfare: { subscribe: ["in/{user}/#"], deny: ["room/staff/#"] } })
        .setProtectedHeader({ alg: algorithm, typ: "JWT", ...header })
        .setIssuer("https://tokens.example.org/")
        .setAudience("fanfare")
        .setSubject("alice")
        .setJti(crypto.randomUUID())
        .setIssuedAt()
        .setNotBefore("0s")
        .setExpirationTime("1h")
        .sign(key);
    console.log(JSON.stringify({ maker: "jose", algorithm, keys, token }));
}

for (const algorithm of SECRETS) {
    const secret = await generateSecret(algorithm, { extractable: true });
    await emit(algorithm, secret, [JSON.stringify(await exportJWK(secret))], {});
}
for (const algorithm of KEYS) {
    const { publicKey, privateKey } = await generateKeyPair(algorithm, { extractable: true });
    const jwk = await exportJWK(publicKey);
    const kid = await calculateJwkThumbprint(jwk);
    const set = { keys: [{ ...jwk, kid, alg: algorithm, use: "sig", key_ops: ["verify"] }] };
    await emit(algorithm, privateKey, [JSON.stringify(jwk), JSON.stringify(set), await exportSPKI(publicKey)], { kid });
}

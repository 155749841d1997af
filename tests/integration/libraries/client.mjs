// jose and openid-client against a running gateway. Each step asserts; the last line printed says that all were passed.
//
// Standard input: a JSON object with `issuer`, `access`, `refresh` (of one login), `secret` (of the client "worker"),
// `key` (private key in PEM of the client "signer", and of the external issuer `stater`), `stater` (its `iss`).
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import * as jose from 'jose'
import * as client from 'openid-client'

const given = JSON.parse(readFileSync(0, 'utf8'))
const { issuer, stater } = given
const key = await jose.importPKCS8(given.key, 'ES256')

// RFC 8414: openid-client refuses a document whose issuer is not the one it asked.
const discover = (id, secret, authentication) =>
  client.discovery(new URL(issuer), id, secret, authentication, {
    algorithm: 'oauth2',
    execute: [client.allowInsecureRequests],
  })
const byBasic = await discover('worker', given.secret, client.ClientSecretBasic(given.secret))
const byBody = await discover('worker', given.secret, client.ClientSecretPost(given.secret))
const byKey = await discover('signer', undefined, client.PrivateKeyJwt(key))
const metadata = byBasic.serverMetadata()

// jose verifies our tokens by our keys.
const keys = jose.createRemoteJWKSet(new URL(metadata.jwks_uri))
const verified = async (token) => (await jose.jwtVerify(token, keys, { issuer, typ: 'at+jwt' })).payload
const claims = await verified(given.access)
await assert.rejects(verified(`${given.access.slice(0, -4)}AAAA`), jose.errors.JWSSignatureVerificationFailed)
await assert.rejects(verified(given.refresh), jose.errors.JWTClaimValidationFailed, 'a refresh token opens nothing')

// client_credentials in three ways to authenticate.
for (const [by, id] of [[byBasic, 'worker'], [byBody, 'worker'], [byKey, 'signer']]) {
  const token = await client.clientCredentialsGrant(by, { scope: 'read' })
  assert.equal(token.refresh_token, undefined)
  const said = await verified(token.access_token)
  assert.deepEqual([said.sub, said.client_id, said.scope], [id, id, 'read'])
  const seen = await client.tokenIntrospection(by, token.access_token)
  assert.deepEqual([seen.active, seen.client_id], [true, id])
}
const refused = (error) => (failure) => failure instanceof client.ResponseBodyError && failure.error === error
await assert.rejects(client.clientCredentialsGrant(byBasic, { scope: 'root' }), refused('invalid_scope'))

// An assertion is good once.
const assertion = await new jose.SignJWT({})
  .setProtectedHeader({ alg: 'ES256' })
  .setIssuer('signer').setSubject('signer').setAudience(issuer).setJti('once').setIssuedAt().setExpirationTime('1m')
  .sign(key)
const present = () => fetch(metadata.token_endpoint, {
  method: 'POST',
  body: new URLSearchParams({
    grant_type: 'client_credentials',
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    client_assertion: assertion,
  }),
})
assert.equal((await present()).status, 200)
assert.equal((await present()).status, 401)

// Refresh and revoke.
const active = async (token) => (await client.tokenIntrospection(byBasic, token)).active
const fresh = await client.refreshTokenGrant(byBasic, given.refresh)
assert.equal((await verified(fresh.access_token)).sid, claims.sid)
await client.tokenRevocation(byBasic, given.access)
assert.deepEqual([await active(given.access), await active(fresh.access_token)], [false, true])
await client.tokenRevocation(byBasic, fresh.refresh_token, { token_type_hint: 'refresh_token' })
assert.equal(await active(fresh.access_token), false)
await assert.rejects(client.refreshTokenGrant(byBasic, fresh.refresh_token), refused('invalid_grant'))

// Tokens of the external issuer, and what it tells of them.
const now = Math.floor(Date.now() / 1000)
const state = (typ, claims) => new jose.SignJWT({ iss: stater, iat: now, ...claims })
  .setProtectedHeader({ alg: 'ES256', ...(typ && { typ }) }).sign(key)
const external = (sub, sid, iat = now) => state('at+jwt', { sub, sid, iat, jti: crypto.randomUUID(), exp: now + 300 })
const push = async (claims) => (await fetch(`${issuer}/events/ssf`, {
  method: 'POST',
  headers: { 'content-type': 'application/secevent+jwt' },
  body: await state('secevent+jwt', { jti: crypto.randomUUID(), ...claims }),
}))
const logOut = async (typ, claims) => fetch(`${issuer}/events/backchannel-logout`, {
  method: 'POST',
  body: new URLSearchParams({ logout_token: await state(typ, {
    aud: 'client', exp: now + 120, jti: crypto.randomUUID(),
    events: { 'http://schemas.openid.net/event/backchannel-logout': {} }, ...claims,
  }) }),
})

const [ada, adaElsewhere, bob] = [await external('ada', 's1'), await external('ada', 's2'), await external('bob', 's3')]
const all = async () => [await active(ada), await active(adaElsewhere), await active(bob)]
assert.deepEqual(await all(), [true, true, true])
const revoked = await push({
  sub_id: {
    format: 'complex',
    user: { format: 'iss_sub', iss: stater, sub: 'ada' },
    session: { format: 'opaque', id: 's1' },
  },
  events: { 'https://schemas.openid.net/secevent/caep/event-type/session-revoked': { event_timestamp: now } },
})
assert.equal(revoked.status, 202)
assert.deepEqual(await all(), [false, true, true])
assert.equal((await logOut('logout+jwt', { sub: 'ada' })).status, 200)
assert.deepEqual(await all(), [false, false, true])
assert.equal(await active(await external('ada', 's4', now - 1)), false)
const disabled = await push({
  sub_id: { format: 'iss_sub', iss: stater, sub: 'bob' },
  events: { 'https://schemas.openid.net/secevent/risc/event-type/account-disabled': { reason: 'hijacking' } },
})
assert.equal(disabled.status, 202)
assert.deepEqual(await all(), [false, false, false])

// None of them passes for another kind.
const bad = await push({ iss: 'https://else.example', sub_id: {}, events: {} })
assert.deepEqual([bad.status, (await bad.json()).err], [400, 'invalid_issuer'])
assert.equal((await logOut('at+jwt', { sub: 'eve' })).status, 400)
for (const typ of ['logout+jwt', undefined]) {
  const statement = await state(typ, {
    sub: 'eve', exp: now + 120, jti: 'x', events: { 'http://schemas.openid.net/event/backchannel-logout': {} },
  })
  assert.equal(await active(statement), false, 'a logout token is no access token')
}
console.log('passed')

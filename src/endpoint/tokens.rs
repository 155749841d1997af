//! A caller's tokens: listed, revoked one by one, restored.

use std::time::Duration;

use http::Response;
use serde_json::{Value, json};

use super::Endpoints;
use super::call::Call;
use super::caller::Caller;
use super::reply::{cut_to, list, message};
use super::revoking::Cause;
use crate::answer::{Body, Code, Problem};
use crate::issuer::settings::SELF;
use crate::revocation::{Kind, Revocation};
use crate::store::{Mark, Page, TokenRow, TrailEntry, TrailFilter};

/// By this reason, beside the actor, an owner's revocation is told from all others: only it can be taken back.
const BY_OWNER: &str = "revoked by its owner";
/// How long a restore waits for the trail; it is milliseconds behind unless the store is in trouble.
const TRAIL_WAIT: Duration = Duration::from_secs(5);
/// So many entries of one token are looked at: one more, and it is not restored.
const TRAIL_ENTRIES: usize = 1_000;

impl Endpoints {
    /// GET `/auth/tokens`.
    pub(super) async fn list_tokens(&self, call: &Call) -> Result<Response<Body>, Problem> {
        let caller = self.caller(call).await?;
        let page = call.page()?;
        let one_more = Page { limit: page.limit + 1, ..page };
        let mut rows = self.parts.store.tokens(&caller.subject, one_more).await?;
        let more = cut_to(&mut rows, page.limit);
        let next = rows.last().filter(|_| more).map(|row| row.number);
        Ok(list(rows.iter().map(|row| self.token_view(call, &caller, row)).collect(), next))
    }

    /// PUT `/auth/tokens/{token_id}` with `{"revoke": true | false}`: only one's own.
    pub(super) async fn revoke_or_restore_token(
        &self,
        call: &Call,
        id: &str,
    ) -> Result<Response<Body>, Problem> {
        let caller = self.caller(call).await?;
        let revoke = call.fields()?.boolean("revoke")?;
        let row = self.parts.store.token(id).await?;
        let row = row
            .filter(|row| row.token.subject == caller.subject)
            .ok_or_else(|| Problem::new(Code::NotFound, "There is no such token"))?;
        if revoke {
            self.revoke_token(call, &caller, &row).await
        } else {
            self.restore(call, &caller, &row).await
        }
    }

    /// DELETE `/auth/tokens`: for scope `admin`, which a client may have too.
    pub(super) async fn prune_tokens(&self, call: &Call) -> Result<Response<Body>, Problem> {
        let token = self.access_of_anybody(call).await?;
        if !token.scopes.iter().any(|scope| &**scope == "admin") {
            let problem = Problem::new(Code::InsufficientScope, "This takes a token with the scope admin");
            return Err(problem.with_scope("admin".to_owned()));
        }
        let rows = self.prune().await?;
        Ok(message(&format!("Pruned {rows} expired tokens and sessions")))
    }

    async fn revoke_token(
        &self,
        call: &Call,
        caller: &Caller,
        row: &TokenRow,
    ) -> Result<Response<Body>, Problem> {
        let token = &row.token;
        let actor = format!("subject:{}", caller.subject);
        // Said again it is done already. Revoked by somebody else it is still worth an entry: were theirs lifted, the
        // owner's wish would go with it, since a selector has one entry; but the trail then shows both.
        let again = row.revoked_by.as_deref() == Some(&*actor)
            && self.refusing_token(call, row).contains(&Kind::Token);
        if token.expires_at > call.now && !again {
            let cause = Cause { actor: &actor, reason: BY_OWNER };
            let entry = self.entry(call, Kind::Token, &token.id, token.expires_at, cause);
            self.parts.revocations.append(vec![entry]).await?;
        }
        self.mark(Mark {
            sessions: Vec::new(),
            tokens: vec![token.id.clone()],
            at: call.now,
            by: actor.into(),
        })
        .await;
        Ok(message("Token revoked"))
    }

    /// Takes back what the owner did, and nothing else. Who did what is asked of the trail, which is the log itself
    /// in the store; the marks are not enough, since an administrator's revocation leaves none.
    async fn restore(&self, call: &Call, caller: &Caller, row: &TokenRow) -> Result<Response<Body>, Problem> {
        let token = &row.token;
        let refused =
            || Problem::new(Code::Conflict, "Something else refuses this token; it cannot be restored");
        if row.retired_at.is_some() {
            return Err(refused());
        }
        let seen = self.parts.revocations.sequence();
        match self.refusing_token(call, row)[..] {
            [] => {
                self.parts.store.unmark_token(&token.id).await?;
                return Ok(message("Token is not revoked"));
            }
            [Kind::Token] => {}
            _ => return Err(refused()),
        }
        let actor = format!("subject:{}", caller.subject);
        let by_owner = |entry: &TrailEntry| *entry.actor == *actor && *entry.reason == *BY_OWNER;
        let entries = self.trail_of(&token.id, None, seen).await?;
        let in_force: Vec<_> = entries.iter().take_while(|entry| !entry.lift).collect();
        if in_force.is_empty() || entries.len() == TRAIL_ENTRIES || !in_force.into_iter().all(by_owner) {
            return Err(refused());
        }

        let cause = Cause { actor: &actor, reason: "restored by its owner" };
        let lift =
            Revocation { lift: true, ..self.entry(call, Kind::Token, &token.id, token.expires_at, cause) };
        let lifted = self.parts.revocations.append(vec![lift]).await?;
        // Somebody else may have revoked it between the look and the lift, which then took theirs away too: it is
        // put back.
        let between = self.trail_of(&token.id, Some(seen), lifted).await?;
        let lost = |entry: &&TrailEntry| !entry.lift && entry.sequence < lifted && !by_owner(entry);
        if let Some(entry) = between.iter().find(lost) {
            let again = Cause { actor: &entry.actor, reason: "put back after a restore that crossed it" };
            let again = self.entry(call, Kind::Token, &token.id, entry.expires_at, again);
            self.parts.revocations.append(vec![again]).await?;
            return Err(refused());
        }
        self.parts.store.unmark_token(&token.id).await?;
        Ok(message("Token restored"))
    }

    /// The entries of a token of ours, newest first, when the trail has come to `upto`.
    async fn trail_of(&self, id: &str, since: Option<u64>, upto: u64) -> Result<Vec<TrailEntry>, Problem> {
        tokio::time::timeout(TRAIL_WAIT, self.parts.revocations.trail_caught_up(upto))
            .await
            .map_err(|_| Problem::new(Code::StoreUnavailable, "The audit trail is behind; try again soon"))?;
        Ok(self
            .parts
            .store
            .trail_list(TrailFilter {
                kind: Some("token".into()),
                issuer: Some(SELF.into()),
                value: Some(id.into()),
                since,
                limit: TRAIL_ENTRIES,
                ..TrailFilter::default()
            })
            .await?)
    }

    fn refusing_token(&self, call: &Call, row: &TokenRow) -> Vec<Kind> {
        self.parts.revocations.refused_by(&self.token_keys(&row.token), call.now)
    }

    /// A token as listed; `token_id` and `jti` are the same, under both names that clients know.
    fn token_view(&self, call: &Call, caller: &Caller, row: &TokenRow) -> Value {
        let token = &row.token;
        let refused = !self.refusing_token(call, row).is_empty();
        let revoked_at = row.revoked_at.filter(|_| refused).or(row.retired_at);
        json!({
            "token_id": token.id,
            "jti": token.id,
            "token_type": token.token_type.name(),
            "user_identity": token.subject,
            "session": token.session,
            "issued": token.issued_at.rfc3339(),
            "expires": token.expires_at.rfc3339(),
            "revoked": refused || row.retired_at.is_some(),
            "revoked_at": revoked_at.map(|at| at.rfc3339()),
            "user_agent": token.user_agent,
            "address": token.address,
            "current": token.id == caller.token.token_id,
        })
    }
}

//! A caller's logins.

use http::Response;
use serde_json::{Value, json};

use super::Endpoints;
use super::call::Call;
use super::caller::Caller;
use super::reply::{cut_to, list, message};
use super::revoking::Cause;
use crate::answer::{Body, Code, Problem};
use crate::issuer::settings::SELF;
use crate::revocation::{Kind, Selector};
use crate::store::{Page, SessionRow};

impl Endpoints {
    /// GET `/auth/sessions`.
    pub(super) async fn list_sessions(&self, call: &Call) -> Result<Response<Body>, Problem> {
        let caller = self.caller(call).await?;
        let page = call.page()?;
        let one_more = Page { limit: page.limit + 1, ..page };
        let mut rows = self.parts.store.sessions(&caller.subject, one_more).await?;
        let more = cut_to(&mut rows, page.limit);
        let next = rows.last().filter(|_| more).map(|row| row.number);
        Ok(list(rows.iter().map(|row| self.session_view(call, &caller, row)).collect(), next))
    }

    /// DELETE `/auth/sessions/{id}`: only one's own.
    pub(super) async fn revoke_session(&self, call: &Call, id: &str) -> Result<Response<Body>, Problem> {
        let caller = self.caller(call).await?;
        let row = self.parts.store.session(id).await?;
        let row = row
            .filter(|row| row.session.subject == caller.subject)
            .ok_or_else(|| Problem::new(Code::NotFound, "There is no such session"))?;
        let selector = Selector::new(Kind::Session, SELF, row.session.id.clone());
        if row.session.expires > call.now && !self.is_in_force(&selector, row.session.expires) {
            let actor = format!("subject:{}", caller.subject);
            let cause = Cause { actor: &actor, reason: "session revoked" };
            self.revoke_sessions(call, &[row.session], cause).await?;
        }
        Ok(message("Session revoked"))
    }

    fn session_view(&self, call: &Call, caller: &Caller, row: &SessionRow) -> Value {
        let session = &row.session;
        let revoked = !self.refusing(call, row).is_empty();
        json!({
            "id": session.id,
            "created": session.created.rfc3339(),
            "expires": session.expires.rfc3339(),
            "revoked": revoked,
            "revoked_at": row.revoked_at.filter(|_| revoked).map(|at| at.rfc3339()),
            "user_agent": session.user_agent,
            "address": session.address,
            "current": session.id == caller.session,
        })
    }

    /// What refuses the newest tokens of a session.
    fn refusing(&self, call: &Call, row: &SessionRow) -> Vec<Kind> {
        let keys = self.session_keys(&row.session.id, &row.session.subject, row.last_issued_at);
        self.parts.revocations.refused_by(&keys, call.now)
    }
}

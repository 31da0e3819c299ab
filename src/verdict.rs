//! What a reply, or its absence, means: exactly one [`Verdict`]. Pure and total.
//!
//! The table is the standard's generic one (ASPI developer portal, QR MPM, response codes) with the service filled in; what
//! a case means for a cancel is our reading of it. A profile can override single codes.

use crate::{
    breaker::Health,
    outcome::Cause,
    snap::{
        Code, Operation, Reply, SendError,
        profile::{CodeClass, CodeOverride, QueryCall, Status},
        response::Answer,
    },
};
use std::collections::BTreeMap;

/// What one call showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The provider confirms the cancel.
    Canceled,
    /// The cancel was accepted, its result is not there yet: it may take effect.
    Pending,
    /// The provider answered, and this cancel did nothing: a query tells how the transaction stands.
    Verify,
    /// The cancel may have taken effect.
    Unknown,
    /// Nothing was done; later.
    Retry,
    /// Nothing was done, and it is the provider's cut-off time: much later.
    CutOff,
    /// The access token is not accepted.
    Token,
    /// The request is not accepted as ours: wrong signature, stale timestamp or unknown client.
    Unauthorized,
    /// Keys, ids or rights are wrong.
    Misconfigured {
        /// The provider objects to the merchant fields.
        merchant: bool,
    },
    /// The provider says no, for good.
    Refused {
        cause: Cause,
        /// The request itself was faulty, so that none of its like can have taken effect.
        malformed: bool,
    },
    /// A query's answer.
    Status(Status),
    /// A query that told nothing.
    QueryFailed,
}

impl Verdict {
    /// Those that a cancel can have.
    pub const OF_CANCEL: [Self; 10] = [
        Self::Canceled,
        Self::Pending,
        Self::Verify,
        Self::Unknown,
        Self::Retry,
        Self::CutOff,
        Self::Token,
        Self::Unauthorized,
        Self::Misconfigured { merchant: false },
        Self::Refused { cause: Cause::ResponseCode, malformed: false },
    ];
    /// Those that a query can have.
    pub const OF_QUERY: [Self; 12] = [
        Self::Status(Status::Open),
        Self::Status(Status::Paying),
        Self::Status(Status::Paid),
        Self::Status(Status::Canceled),
        Self::Status(Status::Expired),
        Self::Status(Status::Failed),
        Self::Status(Status::Refunded),
        Self::Status(Status::NotFound),
        Self::QueryFailed,
        Self::Token,
        Self::Unauthorized,
        Self::Misconfigured { merchant: false },
    ];

    /// A word for logs and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Canceled => "canceled",
            Self::Pending => "pending",
            Self::Verify => "verify",
            Self::Unknown => "unknown",
            Self::Retry => "retry",
            Self::CutOff => "cut_off",
            Self::Token => "token",
            Self::Unauthorized => "unauthorized",
            Self::Misconfigured { .. } => "misconfigured",
            Self::Refused { .. } => "refused",
            Self::Status(Status::Open) => "status_open",
            Self::Status(Status::Paying) => "status_paying",
            Self::Status(Status::Paid) => "status_paid",
            Self::Status(Status::Canceled) => "status_canceled",
            Self::Status(Status::Expired) => "status_expired",
            Self::Status(Status::Failed) => "status_failed",
            Self::Status(Status::Refunded) => "status_refunded",
            Self::Status(Status::NotFound) => "status_not_found",
            Self::QueryFailed => "query_failed",
        }
    }

    /// Whether the provider took the call as rightly ours.
    pub fn is_accepted(self) -> bool {
        !matches!(
            self,
            Self::Unknown
                | Self::Retry
                | Self::CutOff
                | Self::Token
                | Self::Unauthorized
                | Self::Misconfigured { .. }
                | Self::QueryFailed
        )
    }
}

/// The transaction that a call asked about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    pub reference: Option<&'a str>,
    pub partner_reference: Option<&'a str>,
}

/// What came of a call: a reply with what could be read of it, or none.
pub type Returned<'a> = Result<(&'a Reply, Option<&'a Answer>), &'a SendError>;

/// Judges a cancel's reply.
pub fn of_cancel(result: Returned<'_>, asked: Asked<'_>, overrides: &BTreeMap<Code, CodeOverride>) -> Verdict {
    let (reply, answer) = match result {
        Ok(reply) => reply,
        Err(SendError::TokenRefused(_)) => return Verdict::Misconfigured { merchant: false },
        Err(error) if error.is_ambiguous() => return Verdict::Unknown,
        Err(_) => return Verdict::Retry,
    };
    if reply.http_status == 429 {
        return Verdict::Retry;
    }
    let code = readable_code(reply, answer, Operation::Cancel);
    let over = code.and_then(|code| overrides.get(&code));
    let class = over.map(|over| over.verdict).or_else(|| class(code?));
    match class {
        None if was_not_let_in(reply, answer) => Verdict::Unauthorized,
        None => Verdict::Unknown,
        Some(_) if answer.is_some_and(|a| a.is_about_another(asked.reference, asked.partner_reference)) => {
            Verdict::Unknown
        }
        Some(CodeClass::Canceled) => Verdict::Canceled,
        Some(CodeClass::Pending) => Verdict::Pending,
        Some(CodeClass::Verify) => Verdict::Verify,
        Some(CodeClass::Unknown) => Verdict::Unknown,
        Some(CodeClass::Retry) if case(code) == "40306" => Verdict::CutOff,
        Some(CodeClass::Retry) => Verdict::Retry,
        Some(CodeClass::Token) => Verdict::Token,
        Some(CodeClass::Misconfigured) if case(code) == "40100" => Verdict::Unauthorized,
        Some(CodeClass::Misconfigured) => {
            Verdict::Misconfigured { merchant: matches!(case(code).as_str(), "40319" | "40408") }
        }
        Some(CodeClass::Refused) => Verdict::Refused {
            cause: over.map_or(Cause::ResponseCode, |over| over.cause.into()),
            malformed: matches!(case(code).as_str(), "40000" | "40001" | "40002"),
        },
    }
}

/// Judges a query's reply. What would be a verdict about our keys, ids and rights is one here, too; everything else that is
/// no status tells nothing.
pub fn of_query(result: Returned<'_>, asked: Asked<'_>, call: &QueryCall) -> Verdict {
    let (reply, answer) = match result {
        Ok(reply) => reply,
        Err(SendError::TokenRefused(_)) => return Verdict::Misconfigured { merchant: false },
        Err(_) => return Verdict::QueryFailed,
    };
    let Some(code) = readable_code(reply, answer, Operation::Query) else {
        return if was_not_let_in(reply, answer) { Verdict::Unauthorized } else { Verdict::QueryFailed };
    };
    if answer.is_some_and(|a| a.is_about_another(asked.reference, asked.partner_reference)) {
        return Verdict::QueryFailed;
    }
    match case(Some(code)).as_str() {
        "20000" => {
            let status = answer.and_then(|a| a.status.as_deref()).and_then(|status| call.status.get(status));
            status.map_or(Verdict::QueryFailed, |status| Verdict::Status(*status))
        }
        "40401" => Verdict::Status(Status::NotFound),
        "40100" => Verdict::Unauthorized,
        case => match class(code.of(Operation::Cancel)) {
            Some(CodeClass::Token) => Verdict::Token,
            Some(CodeClass::Misconfigured) => Verdict::Misconfigured { merchant: matches!(case, "40319" | "40408") },
            None if reply.http_status == 401 => Verdict::Unauthorized,
            _ => Verdict::QueryFailed,
        },
    }
}

/// What a call says of the provider.
pub fn health(result: Returned<'_>, operation: Operation, verdict: Verdict) -> Health {
    match (result, verdict) {
        (Err(SendError::NotSent(_) | SendError::NoToken(_) | SendError::TimedOut(_) | SendError::Broken(_)), _) => {
            Health::Bad
        }
        (Err(SendError::TokenRefused(_) | SendError::Interrupted | SendError::TooLate | SendError::Stopping), _)
        | (Ok(_), Verdict::Token | Verdict::Unauthorized | Verdict::Misconfigured { .. }) => Health::Untold,
        (Ok((reply, _)), _) if reply.http_status == 429 || reply.http_status >= 500 => Health::Bad,
        (Ok((reply, answer)), _) => match readable_code(reply, answer, operation) {
            Some(_) => Health::Good,
            None => Health::Bad,
        },
    }
}

/// The response code, if there is one that can be believed: of this service, and of the HTTP status it came with.
fn readable_code(reply: &Reply, answer: Option<&Answer>, operation: Operation) -> Option<Code> {
    let code = answer?.code?;
    (code.service() == operation.service() && code.http_status() == reply.http_status).then_some(code)
}

/// A 401 says so, with no code or with a 401 code of any service; a code of another status contradicts it.
fn was_not_let_in(reply: &Reply, answer: Option<&Answer>) -> bool {
    let code = answer.and_then(|answer| answer.code);
    reply.http_status == 401 && code.is_none_or(|code| code.http_status() == 401)
}

/// HTTP status and case without the service.
fn case(code: Option<Code>) -> String {
    code.map_or_else(String::new, |code| format!("{}{}", &code.as_str()[..3], &code.as_str()[5..]))
}

/// The standard's table: what each case, which is a code without its service, says of a cancel.
const CASES: &[(CodeClass, &[&str])] = {
    use CodeClass::{Canceled, Misconfigured, Pending, Refused, Retry, Token, Unknown, Verify};
    &[
        (Canceled, &["20000"]),
        (Pending, &["20200"]),
        (Refused, &["40000", "40001", "40002"]),
        // In practice also a stale timestamp: `of_cancel` lets it be repeated once.
        (Misconfigured, &["40100"]),
        (Token, &["40101", "40103"]),
        (Refused, &["40102", "40104"]),
        // Expired: nothing is left to cancel, unless the customer paid.
        (Verify, &["40300"]),
        // The merchant may not call this API.
        (Misconfigured, &["40301"]),
        (Refused, &["40302", "40303", "40305"]),
        // Too many requests; cut-off time, which `of_cancel` tells apart.
        (Retry, &["40304", "40306"]),
        (Refused, &["40307", "40308", "40309", "40310", "40311", "40312", "40313", "40314", "40315", "40316", "40317"]),
        (Refused, &["40318", "40320", "40321", "40322", "40323"]),
        // Merchant blacklisted.
        (Misconfigured, &["40319"]),
        // Invalid status (paid? cancelled? expired?), not found (a race with its creation?), cancelled by the customer.
        (Verify, &["40400", "40401", "40404"]),
        (Refused, &["40402", "40403", "40405", "40406", "40407", "40409"]),
        // Invalid merchant; partner not found.
        (Misconfigured, &["40408", "40416"]),
        // Invalid transition; paid; inconsistent with an earlier request; bill expired.
        (Verify, &["40410", "40414", "40418", "40419"]),
        (Refused, &["40411", "40412", "40413", "40415", "40417", "40500"]),
        // Not allowed at this time; external id used already; duplicate that was successful.
        (Verify, &["40501", "40900", "40901"]),
        (Retry, &["42900"]),
        (Unknown, &["50000", "50001", "50002", "50400"]),
    ]
};

/// The codes of an operation that the standard's table has; the table is one for all operations.
pub fn known_codes(operation: Operation) -> impl Iterator<Item = Code> {
    let cases = CASES.iter().flat_map(|(_, cases)| cases.iter());
    cases.filter_map(move |case| Code::parse(&format!("{}{}{}", &case[..3], operation.service(), &case[3..])))
}

/// What the standard's table says of a cancel's code; `None` if it is not in the table.
fn class(code: Code) -> Option<CodeClass> {
    let case = case(Some(code));
    CASES.iter().find(|(_, cases)| cases.contains(&case.as_str())).map(|(class, _)| *class)
}

#[cfg(test)]
mod tests;

//! How a command can end: an [`Outcome`], and the [`Cause`] behind it. A cause belongs to exactly one outcome.

use crate::snap::profile::RefusalCause;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an order service acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The provider confirms that the QR is cancelled.
    Canceled,
    /// The customer paid first; the cancel lost.
    Paid,
    /// Nothing was left to cancel.
    Closed,
    /// The provider says no, for good.
    Refused,
    /// The command is faulty and nothing was sent. Parked.
    Invalid,
    /// Gave up without knowing. Parked.
    Unresolved,
}

impl Outcome {
    pub const ALL: [Self; 6] =
        [Self::Canceled, Self::Paid, Self::Closed, Self::Refused, Self::Invalid, Self::Unresolved];

    /// As in event types and routing keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Canceled => "canceled",
            Self::Paid => "paid",
            Self::Closed => "closed",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Unresolved => "unresolved",
        }
    }

    /// Whether a person has to look: then the command is kept in the parking queue.
    pub fn is_parked(self) -> bool {
        matches!(self, Self::Invalid | Self::Unresolved)
    }
}

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $text:literal of $outcome:ident,)*) => {
        /// Why a command ended as it did.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Cause {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Cause {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As in the events.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The outcome that it belongs to.
            pub fn outcome(self) -> Outcome {
                match self { $(Self::$name => Outcome::$outcome,)* }
            }
        }
    };
}

causes! {
    /// A cancel of ours took effect.
    Canceled = "canceled" of Canceled,
    /// Someone else's did, before ours could.
    AlreadyCanceled = "already_canceled" of Canceled,
    Paid = "paid" of Paid,
    Expired = "expired" of Closed,
    Failed = "failed" of Closed,
    Refunded = "refunded" of Closed,
    ResponseCode = "response_code" of Refused,
    /// The provider refuses us for this command, and takes others meanwhile.
    NotAuthorized = "not_authorized" of Refused,
    /// The provider cannot cancel this kind of QR.
    NotCancelableByProvider = "not_cancelable_by_provider" of Refused,
    NotJson = "not_json" of Invalid,
    TooLarge = "too_large" of Invalid,
    WrongEncoding = "wrong_encoding" of Invalid,
    DuplicateKey = "duplicate_key" of Invalid,
    UnknownAccount = "unknown_account" of Invalid,
    UnknownField = "unknown_field" of Invalid,
    MissingField = "missing_field" of Invalid,
    FieldValue = "field_value" of Invalid,
    ConstantOverridden = "constant_overridden" of Invalid,
    AttemptsExhausted = "attempts_exhausted" of Unresolved,
    NotAfterPassed = "not_after_passed" of Unresolved,
    /// The provider did not find the transaction to the end.
    NotFound = "not_found" of Unresolved,
    /// Only a query could tell, and the account has none.
    NoQuery = "no_query" of Unresolved,
    ExpiredInQueue = "expired_in_queue" of Unresolved,
    /// Workers died again and again while they had it in hand.
    WorkerCrashed = "worker_crashed" of Unresolved,
    /// A call may have been made for it, and by the account's settings of now it is no valid command.
    NoLongerValid = "no_longer_valid" of Unresolved,
    /// It came back from a retry, and its account is no longer in the settings of any worker.
    AccountRemoved = "account_removed" of Unresolved,
}

impl From<RefusalCause> for Cause {
    fn from(cause: RefusalCause) -> Self {
        match cause {
            RefusalCause::ResponseCode => Self::ResponseCode,
            RefusalCause::NotAuthorized => Self::NotAuthorized,
            RefusalCause::NotCancelableByProvider => Self::NotCancelableByProvider,
        }
    }
}

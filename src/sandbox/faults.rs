//! What can go wrong at a provider, and how often.

use std::{fmt, str::FromStr};

/// One way in which a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// 500, nothing done.
    ServerError,
    /// 503 with an HTML page, nothing done.
    UnavailableHtml,
    /// 429 with Retry-After, nothing done.
    TooManyRequests,
    /// 504 after it took effect.
    TimeoutAfter,
    /// No answer, nothing done.
    Hang,
    /// No answer after it took effect.
    HangAfter,
    /// The connection is reset, nothing done.
    ResetBefore,
    /// The connection is reset after it took effect.
    ResetAfter,
    /// HTTP 200 with an HTML page, nothing done.
    Html,
    /// It took effect; the answer breaks off in the middle.
    Truncated,
    /// 202: it takes effect later, by itself.
    Accepted,
    /// The token is declared invalid, and is from then on.
    ExpiredToken,
    /// The right answer, byte by byte.
    Drip,
    /// The transaction is not found, by this call and the next.
    NotFoundForAWhile,
}

impl Fault {
    pub const ALL: [Self; 14] = [
        Self::ServerError,
        Self::UnavailableHtml,
        Self::TooManyRequests,
        Self::TimeoutAfter,
        Self::Hang,
        Self::HangAfter,
        Self::ResetBefore,
        Self::ResetAfter,
        Self::Html,
        Self::Truncated,
        Self::Accepted,
        Self::ExpiredToken,
        Self::Drip,
        Self::NotFoundForAWhile,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::ServerError => "500",
            Self::UnavailableHtml => "503_html",
            Self::TooManyRequests => "429",
            Self::TimeoutAfter => "504_after",
            Self::Hang => "hang",
            Self::HangAfter => "hang_after",
            Self::ResetBefore => "reset_before",
            Self::ResetAfter => "reset_after",
            Self::Html => "html",
            Self::Truncated => "truncated",
            Self::Accepted => "202",
            Self::ExpiredToken => "expired_token",
            Self::Drip => "drip",
            Self::NotFoundForAWhile => "not_found_for_a_while",
        }
    }

    /// Whether it can befall a token call.
    pub fn befalls_token_calls(self) -> bool {
        matches!(self, Self::ServerError | Self::Hang | Self::ResetBefore | Self::Html)
    }
}

/// How often each fault befalls a call: a share of all calls from 0 to 1. As text, `0.3` shares 30 % evenly among all
/// faults, `hang=0.05,429=0.1` names them, and `none` is none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Faults {
    rates: [f64; Fault::ALL.len()],
}

/// Why a text names no faults.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FaultsError(String);

impl Faults {
    /// The fault of a call that drew `number`, from 0 to 1.
    pub(super) fn drawn(&self, number: f64) -> Option<Fault> {
        let mut below = 0.0;
        Fault::ALL.into_iter().zip(self.rates).find_map(|(fault, rate)| {
            below += rate;
            (number < below).then_some(fault)
        })
    }
}

impl FromStr for Faults {
    type Err = FaultsError;

    fn from_str(text: &str) -> Result<Self, FaultsError> {
        let text = text.trim();
        let mut faults = Self::default();
        if matches!(text, "" | "none") {
            return Ok(faults);
        }
        if !text.contains('=') {
            faults.rates.fill(rate(text)? / Fault::ALL.len() as f64);
            return Ok(faults);
        }
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, share) = part.split_once('=').unwrap_or((part, ""));
            let at = Fault::ALL.iter().position(|fault| fault.name() == name.trim()).ok_or_else(|| {
                let known = Fault::ALL.map(Fault::name).join(", ");
                FaultsError(format!("no fault is named {:?}; there are {known}", name.trim()))
            })?;
            faults.rates[at] = rate(share.trim())?;
        }
        let sum: f64 = faults.rates.iter().sum();
        // Shares like 0.1 are not exact in binary.
        if sum > 1.0 + 1e-9 {
            return Err(FaultsError(format!("the rates add up to {sum:.3}; together they are at most 1")));
        }
        Ok(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<_> = Fault::ALL
            .into_iter()
            .zip(self.rates)
            .filter(|(_, rate)| *rate > 0.0)
            .map(|(fault, rate)| format!("{}={rate}", fault.name()))
            .collect();
        f.write_str(if named.is_empty() { "none".into() } else { named.join(",") }.as_str())
    }
}

fn rate(text: &str) -> Result<f64, FaultsError> {
    let rate = text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
    rate.ok_or_else(|| {
        FaultsError(format!("{text:?} is no rate: a number from 0 to 1, as in 0.3 or hang=0.05,429=0.1"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_rate_is_shared_evenly() {
        let faults: Faults = "0.28".parse().unwrap();
        assert_eq!(faults.drawn(0.0), Some(Fault::ServerError));
        assert_eq!(faults.drawn(0.021), Some(Fault::UnavailableHtml));
        assert_eq!(faults.drawn(0.279), Some(Fault::NotFoundForAWhile));
        assert_eq!(faults.drawn(0.281), None);
    }

    #[test]
    fn named_rates_befall_their_share_and_read_back() {
        let faults: Faults = "hang=0.25, 429=0.5".parse().unwrap();
        let drawn = |number| faults.drawn(number);
        assert_eq!(drawn(0.49), Some(Fault::TooManyRequests));
        assert_eq!(drawn(0.51), Some(Fault::Hang));
        assert_eq!(drawn(0.76), None);
        assert_eq!(faults.to_string(), "429=0.5,hang=0.25");
        assert_eq!(faults.to_string().parse(), Ok(faults));
        assert_eq!(Faults::default().to_string().parse(), Ok(Faults::default()));
    }

    #[test]
    fn nonsense_is_named() {
        let error = |text: &str| text.parse::<Faults>().unwrap_err().to_string();
        let unknown = error("hangs=0.1");
        assert!(unknown.contains("\"hangs\""), "{unknown}");
        assert!(Fault::ALL.iter().all(|fault| unknown.contains(fault.name())), "{unknown}");
        for text in ["1.1", "-0.1", "NaN", "hang", "hang=", "hang=2", "hang=0.6,429=0.6"] {
            assert!(error(text).contains("rate"), "{text}: {}", error(text));
        }
    }
}

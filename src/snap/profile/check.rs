//! What only several values of a profile together can get wrong. Pure.

use super::{Field, Means, Placeholder, Profile, Source, Template};

/// The start of the line to blame, and the reason.
type Mistake = (&'static str, String);

pub fn check(profile: &Profile) -> Result<(), Mistake> {
    if profile.means == Means::Reverse {
        let reason = "a cancel that reverses a payment is a refund; this worker only withdraws unpaid QRs";
        return Err(("means", reason.into()));
    }
    if profile.signing.modes.is_empty() {
        return Err(("modes", "name at least one signing mode: \"symmetric\" or \"asymmetric\"".into()));
    }
    tokens(profile)?;
    headers(profile)?;
    fields(profile)
}

fn tokens(profile: &Profile) -> Result<(), Mistake> {
    let Some(token) = &profile.token else {
        let reason = "calls need an access token, and there is no [token] section to say how to get one";
        return if any_token(profile) { Err(("[signing]", reason.into())) } else { Ok(()) };
    };
    if token.access_token.is_empty() || token.expires_in.is_empty() {
        return Err(("[token]", "access_token and expires_in each need at least one accepted name".into()));
    }
    let callable = |p| !matches!(p, Placeholder::Token | Placeholder::ExternalId);
    if !token.headers.values().flat_map(Template::placeholders).all(callable) {
        return Err(("[token", "a token call has no {token} and no {external_id}".into()));
    }
    Ok(())
}

fn any_token(profile: &Profile) -> bool {
    profile.signing.modes.iter().any(|mode| profile.needs_token(*mode))
}

fn headers(profile: &Profile) -> Result<(), Mistake> {
    let sent = |wanted| profile.headers.values().any(|header| header.placeholders().any(|p| p == wanted));
    let needed = [Placeholder::Signature, Placeholder::Timestamp];
    let mut needed = needed.into_iter().chain(any_token(profile).then_some(Placeholder::Token));
    if let Some(wanted) = needed.find(|wanted| !sent(*wanted)) {
        return Err(("[headers]", format!("no header holds {{{}}}", wanted.name())));
    }
    let of_token = profile.token.iter().flat_map(|token| token.headers.keys());
    let names = profile.headers.keys().map(|name| ("[headers]", name)).chain(of_token.map(|name| ("[token", name)));
    for (section, name) in names {
        // RFC 9110, section 5.6.2: a token.
        let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(is_tchar) {
            return Err((section, format!("{name:?} is no name of a header")));
        }
        if SET_BY_HTTP.iter().any(|set| name.eq_ignore_ascii_case(set)) {
            return Err((
                section,
                format!("{name} is set by the worker itself, and would be sent twice; leave it out"),
            ));
        }
    }
    let tables =
        [("[headers]", Some(&profile.headers)), ("[token", profile.token.as_ref().map(|token| &token.headers))];
    for (section, headers) in tables.into_iter().filter_map(|(section, headers)| Some((section, headers?))) {
        let mut names: Vec<_> = headers.keys().map(|name| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err((
                section,
                format!("the header {} stands there twice: upper and lower case are the same", twice[0]),
            ));
        }
    }
    Ok(())
}

/// Headers that a request has in any case.
const SET_BY_HTTP: [&str; 7] =
    ["content-type", "content-length", "host", "transfer-encoding", "connection", "traceparent", "tracestate"];

fn fields(profile: &Profile) -> Result<(), Mistake> {
    let once = |section, fields: &[Field]| {
        let again = |(at, field): &(usize, &Field)| fields[..*at].iter().any(|earlier| earlier.name == field.name);
        if let Some((_, field)) = fields.iter().enumerate().find(again) {
            return Err((section, format!("{} is listed twice", field.name)));
        }
        let is_whole = |object| fields.iter().any(|field| field.name == object);
        match fields.iter().find(|field| field.place().0.is_some_and(is_whole)) {
            Some(field) => Err((section, format!("{} stands in an object that is a field itself", field.name))),
            None => Ok(()),
        }
    };
    once("[cancel]", &profile.cancel.fields)?;
    let Some(query) = &profile.query else { return Ok(()) };
    once("[query]", &query.fields)?;
    // A query can only be made of what the cancel command brought.
    for field in &query.fields {
        if let Source::Command(from) = &field.source
            && profile.cancel_field(*from).is_none()
        {
            let reason = format!("{} is filled from {}, which [cancel] does not take", field.name, from.name());
            return Err(("[query]", reason));
        }
    }
    Ok(())
}

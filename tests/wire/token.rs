//! The access token of an account, fetched over the wire.

use crate::rig::{client, http, read_request, server};
use qris_cancel_worker::snap::{
    Operation, SendError,
    key::PrivateKey,
    profile::{BUILT_IN, Profile, SigningMode},
    request::{Ids, MerchantDefaults, Partner, Route},
    token::{NoToken, Tokens},
};
use secrecy::ExposeSecret;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::io::AsyncWriteExt;

fn partner(url: &str) -> Partner {
    let (name, text) = BUILT_IN[1];
    let key = PrivateKey::read(include_bytes!("../vectors/midtrans-public-sample-key.pem")).unwrap();
    let route = Route { path: "/cancel".into(), signed_path: "/cancel".into() };
    Partner {
        profile: Profile::read(name, text).unwrap(),
        mode: SigningMode::Asymmetric,
        base_url: url.to_owned(),
        token_base_url: url.to_owned(),
        cancel: route.clone(),
        query: Some(route),
        ids: Ids { client_key: Some("client".into()), ..Ids::default() },
        merchant: MerchantDefaults::default(),
        private_key: Some(key),
        client_secret: None,
    }
}

/// A token endpoint that gives `token-1`, `token-2`, … with this lifetime, or an error when it is empty.
async fn token_endpoint(lifetime: &'static str) -> (String, Arc<AtomicUsize>) {
    let fetches = Arc::new(AtomicUsize::new(0));
    let own = fetches.clone();
    let (url, _) = server(move |mut stream| {
        let fetches = own.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                assert!(request.contains(r#"{"grant_type":"client_credentials"}"#), "{request}");
                let number = fetches.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
                let answer = match lifetime {
                    "" => http("503 Service Unavailable", "", ""),
                    "later" => http(
                        "503 Service Unavailable",
                        "retry-after: 600\r\ndate: Fri, 20 Nov 2026 11:30:15 GMT\r\n",
                        "",
                    ),
                    "refused" => http(
                        "200 OK",
                        "",
                        r#"{"responseCode":"4017300","responseMessage":"Unauthorized. Unknown Client"}"#,
                    ),
                    lifetime => {
                        http("200 OK", "", &format!(r#"{{"accessToken":"token-{number}","expiresIn":{lifetime}}}"#))
                    }
                };
                stream.write_all(answer.as_bytes()).await.ok();
            }
        }
    })
    .await;
    (url.replace("/cancel", ""), fetches)
}

async fn now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}

#[tokio::test]
async fn many_who_need_a_token_fetch_it_once() {
    let (url, fetches) = token_endpoint("\"900\"").await;
    let (partner, client, tokens) = (partner(&url), client(), Tokens::default());
    let gets = (0..50).map(|_| tokens.get(&partner, &client, now));
    let all = futures_util::future::join_all(gets).await;
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    let calls = all.iter().filter(|fetched| fetched.as_ref().is_ok_and(|fetched| fetched.call.is_some())).count();
    assert_eq!(calls, 1, "the fetch is told by the one who made it");
    for fetched in &all {
        assert_eq!(fetched.as_ref().ok().unwrap().token.expose_secret(), "token-1");
    }
}

#[tokio::test]
async fn a_token_is_dropped_only_by_who_used_that_one() {
    let (url, fetches) = token_endpoint("900").await;
    let (partner, client, tokens) = (partner(&url), client(), Tokens::default());
    let get = || async { tokens.get(&partner, &client, now).await.ok().unwrap().token };
    let first = get().await;
    tokens.forget(&first).await;
    let second = get().await;
    assert_eq!(second.expose_secret(), "token-2");
    tokens.forget(&first).await;
    assert_eq!(get().await.expose_secret(), "token-2", "a late complaint about the first does not drop the second");
    assert_eq!(fetches.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_token_that_ends_at_once_is_used_once() {
    let (url, fetches) = token_endpoint("0").await;
    let (partner, client, tokens) = (partner(&url), client(), Tokens::default());
    for expected in 1..=3 {
        let token = tokens.get(&partner, &client, now).await.ok().unwrap().token;
        assert_eq!(token.expose_secret(), format!("token-{expected}"));
    }
    assert_eq!(fetches.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_is_not_stormed() {
    let (url, fetches) = token_endpoint("").await;
    let (partner, client, tokens) = (partner(&url), client(), Tokens::default());
    for _ in 0..20 {
        let NoToken { error, call, is_hearsay, .. } = tokens.get(&partner, &client, now).await.err().unwrap();
        assert_eq!(is_hearsay, call.is_none(), "after one failure");
        assert!(matches!(&error, SendError::NoToken(why) if why.contains("503")), "{error}");
        assert!(!error.is_ambiguous());
    }
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(tokens.get(&partner, &client, now).await.is_err());
    assert_eq!(fetches.load(Ordering::SeqCst), 2, "after a pause it is asked again");
    let told = tokens.get(&partner, &client, now).await.err().unwrap();
    assert!(told.call.is_none() && !told.is_hearsay, "two failures are an outage");
}

#[tokio::test]
async fn a_token_endpoint_that_asks_for_a_pause_gets_it() {
    let (url, fetches) = token_endpoint("later").await;
    let (partner, client, tokens) = (partner(&url), client(), Tokens::default());
    let first = tokens.get(&partner, &client, now).await.err().unwrap();
    assert_eq!(first.retry_after, Some(Duration::from_secs(600)));
    assert_eq!(first.date.unwrap().to_rfc3339(), "2026-11-20T11:30:15+00:00", "its clock is known");
    tokio::time::sleep(Duration::from_millis(700)).await;
    let told = tokens.get(&partner, &client, now).await.err().unwrap();
    let left = told.retry_after.unwrap();
    assert!(left < Duration::from_millis(599_400) && left > Duration::from_secs(500), "{left:?}");
    assert_eq!(fetches.load(Ordering::SeqCst), 1, "nobody asks before");
}

#[tokio::test]
async fn a_refusal_of_a_token_may_come_with_http_200() {
    let (url, _) = token_endpoint("refused").await;
    let (partner, client, tokens) = (partner(&url), client(), Tokens::default());
    let NoToken { error, .. } = tokens.get(&partner, &client, now).await.err().unwrap();
    assert!(matches!(&error, SendError::TokenRefused(said) if said.contains("Unknown Client")), "{error}");
}

#[tokio::test]
async fn what_a_provider_repeats_of_our_secrets_is_blotted_out() {
    for escape in [None, Some(('/', "\\/")), Some(('=', "\\u003d")), Some(('+', "\\u002B"))] {
        let (url, _) = server(move |mut stream| async move {
            while let Some(request) = read_request(&mut stream).await {
                let signature = request.lines().find_map(|line| {
                    let (name, value) = line.split_once(": ")?;
                    name.eq_ignore_ascii_case("x-signature").then_some(value)
                });
                let mut message = format!("bad signature {}", signature.expect("it is signed"));
                if let Some((plain, escaped)) = escape {
                    message = message.replace(plain, escaped);
                }
                let body = format!(r#"{{"responseCode":"4017300","responseMessage":"{message}"}}"#);
                stream.write_all(http("401 Unauthorized", "", &body).as_bytes()).await.ok();
            }
        })
        .await;
        let (partner, client, tokens) = (partner(&url.replace("/cancel", "")), client(), Tokens::default());
        let NoToken { error, .. } = tokens.get(&partner, &client, now).await.err().unwrap();
        let SendError::TokenRefused(said) = error else { panic!("{error}") };
        assert!(said.contains("bad signature ****") && said.trim_end_matches('*').ends_with(' '), "{said}");
        let at = chrono::Utc::now();
        let token = "a-token-of-ours".into();
        let call = partner.transaction(Operation::Cancel, b"{}".to_vec(), "1", Some(&token), at);
        let signature = call.signature.expose_secret().to_owned();
        let reply = client.send(call).await.unwrap();
        let body = String::from_utf8(reply.body).unwrap();
        assert!(!body.contains(&signature[..40]) && body.contains("bad signature ****"), "{body}");
    }
}

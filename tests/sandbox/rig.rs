//! A sandbox on a port of its own, with an account for every dialect, and the project's own client.

use chrono::Utc;
use qris_cancel_worker::{
    command::{CancelCommand, Hints, Terms},
    sandbox::{self, Options},
    snap::{
        Operation, Reply, SendError,
        client::{Client, Options as ClientOptions},
        key::PrivateKey,
        profile::{BUILT_IN, CommandField, Placeholder, Profile, SigningMode, UrlPath},
        request::{Ids, MerchantDefaults, Partner, Route, SignedRequest},
    },
};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// Account, profile, signing mode: each built-in profile in each of its modes, and one of our own. An account is named by its
/// profile, and in any mode but the first by that, too.
pub fn accounts() -> Vec<(String, &'static str, SigningMode)> {
    let of_profile = |(profile, text): (&'static str, &str)| {
        let modes = Profile::read(profile, text).unwrap().signing.modes;
        let name = move |at, mode: SigningMode| match at {
            0 => profile.to_owned(),
            _ => format!("{profile}-{}", mode.name()),
        };
        modes.into_iter().enumerate().map(move |(at, mode)| (name(at, mode), profile, mode)).collect::<Vec<_>>()
    };
    let own = ("own".to_owned(), "own", SigningMode::Symmetric);
    BUILT_IN.into_iter().flat_map(of_profile).chain([own]).collect()
}

/// The standard's profile in another dialect.
fn own_profile() -> String {
    let changes = [
        (r#"signature = "base64""#, r#"signature = "hex""#),
        (r#"offset = "+07:00""#, r#"offset = "Z""#),
        (r#"fraction = "none""#, r#"fraction = "milliseconds""#),
        ("digits = 32", "digits = 20"),
        (r#"repeat = "new""#, r#"repeat = "same""#),
        (r#""Authorization" = "Bearer {token}""#, "\"X-TOKEN\" = \"t={token};\"\n\"X-PLATFORM\" = \"PORTAL\""),
        (r#""X-PARTNER-ID" = "{partner_id}""#, r#""X-WHO" = "{partner_id}/{channel_id}""#),
        (r#"grant_field = "grantType""#, r#"grant_field = "grant""#),
        (r#"["expiresIn", "expiredIn"]"#, r#"["expiredIn"]"#),
        ("[cancel]\n", "[cancel]\nsigned_path = \"/inner/cancel\"\n"),
        (r#"name = "originalReferenceNo""#, r#"name = "refNo", from = "originalReferenceNo""#),
        (r#""05" = "canceled""#, "\"25\" = \"canceled\"\n\"08\" = \"expired\""),
    ];
    let aspi = BUILT_IN.iter().find(|(name, _)| *name == "aspi").unwrap().1.to_owned();
    changes.iter().fold(aspi, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

pub fn partner(account: &str, profile: &str, mode: SigningMode, base: &str) -> Partner {
    let profile = match profile {
        "own" => Profile::read("own", &own_profile()).unwrap(),
        name => Profile::find(name, std::path::Path::new(".")).unwrap(),
    };
    let route = |path: Option<&str>, signed: Option<&str>, made_up: &str| {
        let path = path.unwrap_or(made_up).to_owned();
        Route { signed_path: signed.map_or_else(|| path.clone(), str::to_owned), path }
    };
    let (cancel, query) = (&profile.cancel, profile.query.as_ref().unwrap());
    let text = |path: &Option<UrlPath>| path.as_ref().map(|p| p.as_str().to_owned());
    let key = PrivateKey::read(include_bytes!("../vectors/midtrans-public-sample-key.pem")).unwrap();
    let merchant_id = profile.cancel_field(CommandField::MerchantId).map(|_| "000123456789".into());
    Partner {
        mode,
        base_url: format!("{base}/{account}"),
        token_base_url: format!("{base}/{account}"),
        cancel: route(text(&cancel.path).as_deref(), text(&cancel.signed_path).as_deref(), "/open/bi/cancel"),
        query: Some(route(text(&query.path).as_deref(), text(&query.signed_path).as_deref(), "/open/bi/query")),
        ids: Ids {
            partner_id: Some("IFP2024067944".into()),
            client_key: Some("client-1".into()),
            channel_id: Some("95221".into()),
            origin: Some("www.example.co.id".into()),
        },
        merchant: MerchantDefaults { merchant_id, ..MerchantDefaults::default() },
        private_key: Some(key),
        client_secret: Some(SecretString::from("secret-1")),
        profile,
    }
}

pub fn client(timeout: Duration) -> Client {
    Client::new(&ClientOptions { connect_timeout: timeout, timeout, ..ClientOptions::default() }).unwrap()
}

pub struct Rig {
    pub base: String,
    pub partners: Vec<(String, Arc<Partner>)>,
    pub client: Client,
    /// For the sandbox's own pages.
    http: reqwest::Client,
    pub stop: oneshot::Sender<()>,
    pub served: JoinHandle<std::io::Result<()>>,
}

impl Rig {
    pub async fn start(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let make = |(name, profile, mode): (String, &str, SigningMode)| {
            let partner = partner(&name, profile, mode, &base);
            (name, Arc::new(partner))
        };
        let partners: Vec<_> = accounts().into_iter().map(make).collect();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(sandbox::serve(listener, partners.clone(), options, async { drop(stopped.await) }));
        Self { base, partners, client: client(Duration::from_secs(20)), http: reqwest::Client::new(), stop, served }
    }

    pub fn partner(&self, account: &str) -> &Partner {
        &self.partners.iter().find(|(name, _)| name == account).unwrap().1
    }

    pub fn body(&self, account: &str, operation: Operation, reference: &str) -> Vec<u8> {
        let partner = self.partner(account);
        let command = json!({ "jobId": "j", "originalReferenceNo": reference, "originalPartnerReferenceNo": format!("P{reference}"), "reason": "changed my mind" });
        let terms = Terms { profile: &partner.profile, defaults: &partner.merchant };
        let command = CancelCommand::read(command.to_string().as_bytes(), Hints::default(), terms).unwrap();
        partner.body(operation, &command)
    }

    pub async fn token(&self, account: &str) -> Option<SecretString> {
        let partner = self.partner(account);
        if !partner.needs_token() {
            return None;
        }
        let reply = self.client.send(partner.token_request(Utc::now()).unwrap()).await.unwrap();
        let answer = json_of(&reply);
        assert_eq!(answer["responseCode"], "2007300", "{account}");
        let call = partner.profile.token.as_ref().unwrap();
        assert!(answer[&call.expires_in[0]].is_string(), "{answer}");
        Some(answer[&call.access_token[0]].as_str().unwrap().into())
    }

    pub async fn request(&self, account: &str, operation: Operation, reference: &str) -> SignedRequest {
        let body = self.body(account, operation, reference);
        self.with_body(account, operation, body).await
    }

    pub async fn with_body(&self, account: &str, operation: Operation, body: Vec<u8>) -> SignedRequest {
        let token = self.token(account).await;
        let partner = self.partner(account);
        partner.transaction(operation, body, &fresh_id(partner), token.as_ref(), Utc::now())
    }

    pub async fn call(&self, account: &str, operation: Operation, reference: &str) -> Result<Reply, SendError> {
        self.client.send(self.request(account, operation, reference).await).await
    }

    pub async fn code(&self, request: SignedRequest) -> String {
        code_of(&self.client.send(request).await.unwrap())
    }

    pub async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, format!("{}/_sandbox{path}", self.base));
        let response = request.body(body.to_string()).send().await.unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    pub async fn faults(&self, account: &str, faults: &str) {
        let set = self.control("PUT", "/faults", json!({ "account": account, "faults": faults })).await;
        assert_eq!(set["error"], Value::Null);
    }

    pub async fn transaction(&self, account: &str, reference: &str) -> Value {
        let all = self.control("GET", &format!("/transactions?account={account}"), Value::Null).await;
        let found = all.as_array().unwrap().iter().find(|one| one["originalReferenceNo"] == reference);
        found.unwrap_or_else(|| panic!("{reference} is not in {all}")).clone()
    }
}

pub fn fresh_id(partner: &Partner) -> String {
    partner.external_id(Operation::Query, b"", false, uuid::Uuid::new_v4().as_u128())
}

pub fn json_of(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&reply.body)))
}

/// The response code, which must be of the HTTP status.
pub fn code_of(reply: &Reply) -> String {
    let code = json_of(reply)["responseCode"].as_str().unwrap().to_owned();
    assert_eq!(code[..3], reply.http_status.to_string());
    code
}

/// The header that holds this value of the account, if calls have one.
pub fn header_of(partner: &Partner, held: Placeholder) -> Option<&str> {
    let mut headers = partner.profile.headers.iter();
    headers.find(|(_, template)| template.placeholders().any(|p| p == held)).map(|(name, _)| name.as_str())
}

pub fn header<'a>(request: &'a mut SignedRequest, name: &str) -> &'a mut SecretString {
    &mut request.headers.iter_mut().find(|(own, _)| own == name).unwrap().1
}

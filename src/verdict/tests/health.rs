//! What a call says of the provider and of our keys, and that the lists of verdicts are complete.

use super::*;

#[test]
fn a_provider_is_healthy_while_it_answers_and_knows_us() {
    let of = |http_status: u16, body: &str| {
        let reply = reply(http_status, body.as_bytes());
        let answer = Answer::read(&reply.body);
        let result: Returned<'_> = Ok((&reply, answer.as_ref()));
        health(result, Operation::Cancel, of_cancel(result, ASKED, &profile("aspi").codes))
    };
    let of_error = |error: SendError| {
        let result: Returned<'_> = Err(&error);
        health(result, Operation::Cancel, of_cancel(result, ASKED, &profile("aspi").codes))
    };
    for (expected, told) in [
        (
            Health::Good,
            vec![
                of(200, &coded(2007700)),
                of(202, &coded(2027700)),
                of(404, &coded(4047701)),
                of(400, &coded(4007701)),
                of(403, &coded(4037706)),
                of(409, &coded(4097700)),
            ],
        ),
        (
            Health::Bad,
            vec![
                of(500, &coded(5007700)),
                of(504, &coded(5047700)),
                of(429, &coded(4297700)),
                of(429, "slow down"),
                of(503, "<html>"),
                of(200, "<html>"),
                of(404, "not here"),
                of(200, &coded(5007700)),
                of(200, &coded(2005100)),
            ],
        ),
        (
            Health::Bad,
            vec![
                of_error(SendError::NotSent(String::new())),
                of_error(SendError::NoToken(String::new())),
                of_error(SendError::TimedOut(Duration::ZERO)),
                of_error(SendError::Broken(String::new())),
            ],
        ),
        (
            Health::Untold,
            vec![
                of(401, &coded(4017700)),
                of(401, &coded(4017701)),
                of(401, "<html>"),
                of(403, &coded(4037701)),
                of(404, &coded(4047716)),
            ],
        ),
        (
            Health::Untold,
            vec![
                of_error(SendError::TokenRefused(String::new())),
                of_error(SendError::Interrupted),
                of_error(SendError::TooLate),
                of_error(SendError::Stopping),
            ],
        ),
    ] {
        for (at, told) in told.into_iter().enumerate() {
            assert_eq!(told, expected, "number {at} of those that are {expected:?}");
        }
    }
}

#[test]
fn the_lists_of_verdicts_are_complete() {
    let names = |list: &[Verdict]| list.iter().map(|verdict| verdict.name()).collect::<Vec<_>>();
    let (cancels, queries) = (names(&Verdict::OF_CANCEL), names(&Verdict::OF_QUERY));
    for row in table() {
        let status = row.code.http_status();
        let verdict = cancel(status, coded(row.code));
        assert!(cancels.contains(&verdict.name()), "{}: {verdict:?}", row.code);
        let verdict = query(status, coded(row.code.of(Operation::Query)));
        assert!(queries.contains(&verdict.name()), "{}: {verdict:?}", row.code);
    }
    for told in ["00", "01", "02", "03", "04", "05", "06", "07", "99"] {
        assert!(queries.contains(&query(200, status(&format!("{told:?}"))).name()), "{told}");
    }
}

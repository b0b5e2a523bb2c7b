//! `WWW-Authenticate` (RFC 9110, 11.6.1): what a server wants, out of one header or several, oddly spaced or not.

/// A challenge this crate can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) enum Challenge {
    /// Name and password.
    Basic,
    /// A token from `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The best challenge in the values of all `WWW-Authenticate` headers: Bearer before Basic.
    pub(in crate::registry) fn choose<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let all: Vec<Self> = headers.into_iter().flat_map(parse).collect();
        let bearer = all.iter().find(|challenge| matches!(challenge, Self::Bearer { .. }));
        bearer.or(all.first()).cloned()
    }
}

fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        let (word, after) = rest.split_at(end);
        let after = after.trim_start_matches([' ', '\t']);
        match after.strip_prefix('=') {
            Some(value) => {
                let (value, left) = read_value(value.trim_start_matches([' ', '\t']));
                if let Some((_, parameters)) = challenges.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = left;
            }
            None => {
                challenges.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
    challenges.into_iter().filter_map(|(scheme, parameters)| meaning(&scheme, &parameters)).collect()
}

/// A token or a quoted text, and what follows it.
fn read_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

fn meaning(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let value = |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            Some(Challenge::Bearer { realm: value("realm")?, service: value("service"), scope: value("scope") })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) })
    }

    #[test]
    fn challenges_are_read_however_they_are_written() {
        for (headers, expected) in [
            (
                vec![r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull""#],
                bearer("https://a/t", Some("s"), Some("repository:x:pull")),
            ),
            (vec![r#"bearer  realm = "https://a/t" , Service=s"#], bearer("https://a/t", Some("s"), None)),
            (vec![r#"Basic realm="x, y", BEARER realm="https://a/t""#], bearer("https://a/t", None, None)),
            (vec!["Negotiate", r#"Basic realm="x""#], Some(Challenge::Basic)),
            (
                vec![r#"Bearer realm="https://a/t",scope="a:b:pull,push""#],
                bearer("https://a/t", None, Some("a:b:pull,push")),
            ),
            (vec![r#"Bearer realm="a\"b""#], bearer("a\"b", None, None)),
            (vec![r#"Bearer service="x""#], None),
            (vec!["", ",,", "=", "\"", "Bearer realm=\"open"], bearer("open", None, None)),
            (vec!["Digest qop=auth"], None),
        ] {
            assert_eq!(Challenge::choose(headers.clone()), expected, "{headers:?}");
        }
    }
}

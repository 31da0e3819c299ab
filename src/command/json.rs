//! JSON as commands need it: duplicate keys found, values kept as the text they came in (numbers are not rounded, an
//! object keeps its order), insignificant white space dropped where a value goes to a provider.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::value::RawValue;
use std::{collections::BTreeSet, fmt};

/// How deep a command may be nested. Its event is one level deeper, and has to be read by all: .NET's reader takes 64 levels.
const MAX_DEPTH: usize = 60;

/// An object's keys and the text of their values, as they came.
pub type Borrowed<'a> = Vec<(String, &'a str)>;

/// An object whose values are kept as text, in their order.
#[derive(Debug, Clone, Default)]
pub struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    pub fn push(&mut self, key: String, value: Box<RawValue>) {
        self.0.push((key, value));
    }

    /// The text of a value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == key).map(|(_, value)| value.get())
    }
}

impl IntoIterator for Members {
    type Item = (String, Box<RawValue>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// The members of an object; `None` if the text is something else.
pub fn members(text: &str) -> Option<Borrowed<'_>> {
    struct Object<'a>(Borrowed<'a>);

    impl<'de> Deserialize<'de> for Object<'de> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Pairs;

            impl<'de> Visitor<'de> for Pairs {
                type Value = Object<'de>;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    let mut members = Vec::new();
                    while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                        members.push((key, value.get()));
                    }
                    Ok(Object(members))
                }
            }

            deserializer.deserialize_map(Pairs)
        }
    }

    serde_json::from_str::<Object<'_>>(text).ok().map(|object| object.0)
}

/// The text of the first value with this key.
pub fn get<'a>(members: &Borrowed<'a>, key: &str) -> Option<&'a str> {
    members.iter().find(|(own, _)| own == key).map(|(_, value)| *value)
}

/// A JSON string's content; `None` if the value is something else.
pub fn string(text: &str) -> Option<String> {
    serde_json::from_str(text).ok()
}

/// An object's members without insignificant white space: a provider that minifies a body again must get what we hashed.
pub fn minified(members: &Borrowed<'_>) -> Members {
    let minify = |text: &str| RawValue::from_string(minify(text)).expect("white space outside texts means nothing");
    Members(members.iter().map(|(key, value)| (key.clone(), minify(value))).collect())
}

fn minify(text: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    text.chars()
        .filter(|&c| {
            let keep = inside || !c.is_ascii_whitespace();
            match c {
                '"' if !escaped => inside = !inside,
                _ => {}
            }
            escaped = inside && c == '\\' && !escaped;
            keep
        })
        .collect()
}

/// The paths of all keys that stand twice in the same object.
///
/// # Errors
/// When the text is not JSON, is nested deeper than [`MAX_DEPTH`] levels, or holds a number that no computer format can.
pub fn duplicate_keys(text: &str) -> serde_json::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Walk { path: String::new(), depth: 0, found: &mut found }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(found)
}

struct Walk<'f> {
    path: String,
    /// Of what this value stands in.
    depth: usize,
    found: &'f mut Vec<String>,
}

impl Walk<'_> {
    /// The depth of a list or object.
    fn deeper<E: de::Error>(&self) -> Result<usize, E> {
        let depth = self.depth + 1;
        if depth > MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(depth)
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (depth, mut seen) = (self.deeper()?, BTreeSet::new());
        while let Some(key) = map.next_key::<String>()? {
            let path = match self.path.len() {
                0 => key.chars().take(256).collect(),
                // Long enough to find the place; a hostile nesting, or a long key, must not cost memory.
                256.. => self.path.clone(),
                _ => format!("{}.{}", self.path, key.chars().take(256).collect::<String>()),
            };
            if !seen.insert(key) {
                self.found.push(path.clone());
            }
            map.next_value_seed(Walk { path, depth, found: self.found })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let (depth, mut at) = (self.deeper()?, 0);
        while let Some(()) =
            seq.next_element_seed(Walk { path: format!("{}[{at}]", self.path), depth, found: self.found })?
        {
            at += 1;
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn minifying_a_pretty_text_gives_the_compact_one(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(minify(&pretty), serde_json::to_string(&value).unwrap());
        }

        #[test]
        fn a_text_without_duplicates_has_none(value in any_json()) {
            prop_assert_eq!(duplicate_keys(&value.to_string()).unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn a_long_key_does_not_make_the_paths_below_it_long() {
        let text = format!(r#"{{"{}":{{"":0,"":0,"x":{{"":0,"":0}}}}}}"#, "k".repeat(60_000));
        let paths = duplicate_keys(&text).unwrap();
        assert_eq!(paths.len(), 2);
        assert!(paths.iter().all(|path| path.len() <= 600));
    }

    #[test]
    fn duplicates_are_named_by_path() {
        let text = r#"{"a":1,"b":[{"c":1,"c":2}],"a":{"d":0,"d":0},"a":3}"#;
        assert_eq!(duplicate_keys(text).unwrap(), ["b[0].c", "a", "a.d", "a"]);
    }
}

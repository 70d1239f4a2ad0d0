//! Which keys a parser knows, and of what type: asked of the parser itself.
//!
//! A type that is decoded by serde says what it wants while it is decoded: an object with these fields, a list, a number of that size.
//! The probe answers up to the place that is asked about, notes what is wanted there, and ends the decoding. So there is no
//! second list of keys that could differ from the one that the plugins have.

use std::{cell::RefCell, fmt};

use serde::{
    Deserialize,
    de::{
        DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::StrDeserializer,
    },
};

/// What a parser takes at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Whatever JSON has.
    Any,
    Bool,
    /// A whole number within these bounds.
    Integer {
        least: i64,
        most: u64,
    },
    Text,
    List(Box<Shape>),
    /// An object with any keys.
    Map(Box<Shape>),
    /// An object with these keys; others are ignored.
    Object(Vec<(&'static str, Shape)>),
}

impl Shape {
    /// What `T` takes.
    pub fn of<T: for<'de> Deserialize<'de>>() -> Self {
        shape_at::<T>(&mut Vec::new())
    }

    /// The shape of a member.
    pub fn member(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => {
                members.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, shape)| shape)
            }
            _ => None,
        }
    }

    /// The keys of an object.
    pub fn keys(&self) -> Vec<&'static str> {
        match self {
            Self::Object(members) => members.iter().map(|(name, _)| *name).collect(),
            _ => Vec::new(),
        }
    }
}

#[derive(Clone, Copy)]
enum Step {
    Into(&'static str),
    Inside,
}

/// What was wanted at the place.
enum Wanted {
    Leaf(Shape),
    List,
    Map,
    Object(&'static [&'static str]),
}

fn shape_at<T: for<'de> Deserialize<'de>>(path: &mut Vec<Step>) -> Shape {
    let wanted = RefCell::new(None);
    let _ = T::deserialize(Probe { path: path.as_slice(), wanted: &wanted });
    let within = |path: &mut Vec<Step>, step: Step| {
        path.push(step);
        let shape = shape_at::<T>(path);
        path.pop();
        shape
    };
    match wanted.into_inner() {
        None => Shape::Any,
        Some(Wanted::Leaf(shape)) => shape,
        Some(Wanted::List) => Shape::List(Box::new(within(path, Step::Inside))),
        Some(Wanted::Map) => Shape::Map(Box::new(within(path, Step::Inside))),
        Some(Wanted::Object(fields)) => {
            Shape::Object(fields.iter().map(|field| (*field, within(path, Step::Into(field)))).collect())
        }
    }
}

/// How every probe ends.
#[derive(Debug)]
struct Seen;

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seen")
    }
}

impl std::error::Error for Seen {}

impl serde::de::Error for Seen {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

#[derive(Clone, Copy)]
struct Probe<'p> {
    path: &'p [Step],
    wanted: &'p RefCell<Option<Wanted>>,
}

impl Probe<'_> {
    fn note<T>(self, wanted: Wanted) -> Result<T, Seen> {
        if self.path.is_empty() {
            self.wanted.replace(Some(wanted));
        }
        Err(Seen::custom("seen"))
    }

    fn integer<T>(self, least: i64, most: u64) -> Result<T, Seen> {
        self.note(Wanted::Leaf(Shape::Integer { least, most }))
    }
}

macro_rules! leaves {
    ($($method:ident => $shape:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Seen> { self.note(Wanted::Leaf($shape)) })*
    };
}

macro_rules! integers {
    ($($method:ident => $least:expr, $most:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Seen> { self.integer($least, $most) })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Seen;

    leaves! {
        deserialize_any => Shape::Any;
        deserialize_ignored_any => Shape::Any;
        deserialize_f32 => Shape::Any;
        deserialize_f64 => Shape::Any;
        deserialize_unit => Shape::Any;
        deserialize_bool => Shape::Bool;
        deserialize_char => Shape::Text;
        deserialize_str => Shape::Text;
        deserialize_string => Shape::Text;
        deserialize_bytes => Shape::Text;
        deserialize_byte_buf => Shape::Text;
        deserialize_identifier => Shape::Text;
    }

    integers! {
        deserialize_i8 => i8::MIN.into(), 127;
        deserialize_i16 => i16::MIN.into(), 32_767;
        deserialize_i32 => i32::MIN.into(), 2_147_483_647;
        deserialize_i64 => i64::MIN, 9_223_372_036_854_775_807;
        deserialize_u8 => 0, u8::MAX.into();
        deserialize_u16 => 0, u16::MAX.into();
        deserialize_u32 => 0, u32::MAX.into();
        deserialize_u64 => 0, u64::MAX;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Seen> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Seen> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, _: V) -> Result<V::Value, Seen> {
        self.note(Wanted::Leaf(Shape::Any))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Seen> {
        match self.path.split_first() {
            Some((Step::Inside, path)) => visitor.visit_seq(Inside { probe: Self { path, ..self }, key: None }),
            _ => self.note(Wanted::List),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Seen> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Seen> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Seen> {
        match self.path.split_first() {
            Some((Step::Inside, path)) => visitor.visit_map(Inside { probe: Self { path, ..self }, key: Some("key") }),
            _ => self.note(Wanted::Map),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Seen> {
        match self.path.split_first() {
            Some((Step::Into(field), path)) => {
                visitor.visit_map(Inside { probe: Self { path, ..self }, key: Some(field) })
            }
            _ => self.note(Wanted::Object(fields)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Seen> {
        self.note(Wanted::Leaf(Shape::Text))
    }
}

/// An object or a list with the one member on the way to the place.
struct Inside<'p> {
    probe: Probe<'p>,
    key: Option<&'static str>,
}

impl<'de> SeqAccess<'de> for Inside<'_> {
    type Error = Seen;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Seen> {
        seed.deserialize(self.probe).map(Some)
    }
}

impl<'de> MapAccess<'de> for Inside<'_> {
    type Error = Seen;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Seen> {
        let key: StrDeserializer<'_, Seen> = self.key.unwrap_or_default().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Seen> {
        seed.deserialize(self.probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parsers_tell_their_keys_and_types() {
        let tun = Shape::of::<adit_tunnel::Config>();
        assert_eq!(tun.member("mtu"), Some(&Shape::Integer { least: 0, most: u32::MAX.into() }));
        let Some(Shape::List(peer)) = tun.member("peers") else { panic!("{tun:?}") };
        assert_eq!(peer.keys(), ["endpoint", "publicKey", "presharedKeyFile", "allowedIPs", "keepalive"]);
        assert_eq!(tun.member("capabilities"), Some(&Shape::Map(Box::new(Shape::Bool))));
        assert_eq!(tun.member("tos"), Some(&Shape::Any));

        let of_static = Shape::of::<adit_static::Config>();
        let ipam = of_static.member("ipam").unwrap();
        assert_eq!(ipam.keys(), ["addresses", "routes", "dns"]);
        let Some(Shape::List(route)) = ipam.member("routes") else { panic!("{ipam:?}") };
        assert_eq!(route.keys(), ["advmss", "dst", "gw", "mtu", "priority", "scope", "table"]);

        assert!(Shape::of::<adit_bridge::Config>().keys().contains(&"isGateway"));
        assert_eq!(Shape::of::<adit_macvlan::Config>().member("bcqueuelen"), tun.member("mtu"));
    }
}

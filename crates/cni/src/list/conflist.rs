//! Reading configuration lists (CNI specification, "Configuration format").

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{ListError, NetworkList};
use crate::config::member;
use crate::version::{Version, parse_numbers};

impl NetworkList {
    /// Reads a list (`.conflist`).
    ///
    /// # Errors
    /// [`ListError::Parse`], with libcni's words where it has some.
    pub fn parse(document: &[u8]) -> Result<Self, ListError> {
        let list = parse(document)?;
        if list.plugins.is_empty() {
            return wrong("no plugins in list");
        }
        Ok(list)
    }

    /// Reads a single plugin's configuration (`.conf`, and what a NetworkAttachmentDefinition may hold
    /// in place of a list) as a list of one.
    ///
    /// # Errors
    /// [`ListError::Parse`].
    pub fn from_conf(document: &[u8]) -> Result<Self, ListError> {
        let conf = object(document)?;
        let list = json!({
            "name": conf.get("name").unwrap_or(&Value::Null),
            "cniVersion": conf.get("cniVersion").unwrap_or(&Value::Null),
            "plugins": [conf],
        });
        Self::parse(list.to_string().as_bytes())
    }

    /// Reads a list from a file. Unless `loadOnlyInlinedPlugins` is set, the plugins of
    /// `<folder>/<network>/*.conf` follow those of the list, in the order of their file names.
    ///
    /// # Errors
    /// [`ListError::Read`] and [`ListError::Parse`].
    pub fn load(file: &Path) -> Result<Self, ListError> {
        let mut list = parse(&read(file)?)?;
        let document = object(&list.source)?;
        if !flag(&document, "loadOnlyInlinedPlugins")? {
            let folder = file.with_file_name(list.name.as_str());
            for file in conf_files(&folder)? {
                list.plugins.push(plugin(object(&read(&file)?)?)?);
            }
        }
        if list.plugins.is_empty() {
            return wrong("no plugin configs found");
        }
        Ok(list)
    }
}

/// A list that may still be without plugins.
fn parse(document: &[u8]) -> Result<NetworkList, ListError> {
    let list = object(document)?;
    let name = match member(&list, "name") {
        Some(Value::String(name)) => {
            name.as_str().try_into().map_err(|why: crate::Error| ListError::Parse(why.to_string()))?
        }
        Some(other) => return wrong(format!("invalid name type: {other}")),
        None => return wrong("no name"),
    };
    let plugins = match list.get("plugins") {
        Some(Value::Array(plugins)) if plugins.is_empty() => return wrong("no plugins in list"),
        Some(Value::Array(plugins)) => plugins
            .iter()
            .enumerate()
            .map(|(index, conf)| match conf {
                Value::Object(conf) => plugin(conf.clone()),
                _ => wrong(format!("plugin config {index} is not an object")),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return wrong(format!("invalid 'plugins' type: {other}")),
        None if flag(&list, "loadOnlyInlinedPlugins")? => {
            return wrong("`loadOnlyInlinedPlugins` is true, and no 'plugins' key");
        }
        None => Vec::new(),
    };
    Ok(NetworkList {
        name,
        version: version(&list)?,
        disable_check: flag(&list, "disableCheck")?,
        disable_gc: flag(&list, "disableGC")?,
        plugins,
        source: document.to_vec(),
    })
}

/// The highest version that is spoken, of `cniVersions` and `cniVersion`. Without `cniVersions`, a
/// `cniVersion` that is not spoken is an error.
fn version(list: &Map<String, Value>) -> Result<Version, ListError> {
    let single = match member(list, "cniVersion") {
        None => None,
        Some(Value::String(text)) => Some(text.as_str()),
        Some(other) => return wrong(format!("invalid cniVersion type: {other}")),
    };
    let several = match member(list, "cniVersions") {
        None => &[],
        Some(Value::Array(versions)) => versions.as_slice(),
        Some(other) => return wrong(format!("invalid type for cniVersions: {other}")),
    };
    let mut spoken = Vec::new();
    for (index, value) in several.iter().enumerate() {
        let Value::String(text) = value else {
            return wrong(format!("invalid type for cniVersions index {index}: {value}"));
        };
        if let Err(why) = parse_numbers(text) {
            return wrong(format!("invalid cniVersions entry {text} at index {index}: {why}"));
        }
        spoken.extend(text.parse::<Version>().ok());
    }
    match (single, spoken.iter().max()) {
        (None, Some(highest)) => Ok(*highest),
        (Some(text), Some(highest)) => {
            parse_numbers(text).map_err(|why| ListError::Parse(format!("invalid cniVersion {text}: {why}")))?;
            Ok(text.parse().map_or(*highest, |single: Version| single.max(*highest)))
        }
        (single, None) => {
            single.unwrap_or_default().parse().map_err(|why: crate::Error| ListError::Parse(why.to_string()))
        }
    }
}

/// A switch that may be written as a text.
fn flag(list: &Map<String, Value>, key: &str) -> Result<bool, ListError> {
    match list.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => wrong(format!("invalid value {other} for {key}")),
    }
}

fn plugin(conf: Map<String, Value>) -> Result<Map<String, Value>, ListError> {
    match member(&conf, "type") {
        Some(Value::String(kind)) if !kind.is_empty() => {}
        _ => return wrong("error parsing configuration: missing 'type'"),
    }
    if let Some(capabilities) = member(&conf, "capabilities") {
        let sound = capabilities.as_object().is_some_and(|all| all.values().all(|v| v.is_boolean() || v.is_null()));
        if !sound {
            return wrong(format!("capabilities is not a map of true and false: {capabilities}"));
        }
    }
    Ok(conf)
}

fn object(document: &[u8]) -> Result<Map<String, Value>, ListError> {
    match serde_json::from_slice(document) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => wrong("it is not a JSON object"),
        Err(why) => wrong(why.to_string()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ListError> {
    fs::read(path).map_err(|why| unreadable(path, &why))
}

fn conf_files(folder: &Path) -> Result<Vec<std::path::PathBuf>, ListError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(why) => return Err(unreadable(folder, &why)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|why| unreadable(folder, &why))?.path();
        if path.extension().is_some_and(|kind| kind == "conf") && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(path: &Path, why: &io::Error) -> ListError {
    ListError::Read { path: path.to_owned(), why: why.to_string() }
}

fn wrong<T>(why: impl Into<String>) -> Result<T, ListError> {
    Err(ListError::Parse(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(keys: &str) -> Result<NetworkList, ListError> {
        NetworkList::parse(format!(r#"{{"name":"net","plugins":[{{"type":"a"}}],{keys}}}"#).as_bytes())
    }

    #[test]
    fn the_highest_spoken_version_wins() {
        let table = [
            (r#""cniVersion":"0.4.0""#, Version::V0_4_0),
            (r#""x":1"#, Version::V0_1_0),
            (r#""cniVersion":"0.4.0","cniVersions":["0.3.1","1.0.0"]"#, Version::V1_0_0),
            (r#""cniVersion":"1.1.0","cniVersions":["0.3.1"]"#, Version::V1_1_0),
            (r#""cniVersions":["1.0.0","1.2.0","2.0.0"]"#, Version::V1_0_0),
            (r#""cniVersion":"1.2.0","cniVersions":["1.1.0"]"#, Version::V1_1_0),
        ];
        for (keys, version) in table {
            assert_eq!(list(keys).unwrap().version, version, "{keys}");
        }
        for wrong in
            [r#""cniVersion":"1.2.0""#, r#""cniVersion":1"#, r#""cniVersions":["x"]"#, r#""cniVersions":"1.0.0""#]
        {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn switches_may_be_texts() {
        let on = list(r#""disableCheck":"True","disableGC":true"#).unwrap();
        assert!(on.disable_check && on.disable_gc);
        let off = list(r#""disableCheck":"false""#).unwrap();
        assert!(!off.disable_check && !off.disable_gc);
        for wrong in [r#""disableCheck":"yes""#, r#""disableGC":1"#] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_single_plugin_becomes_a_list_of_one() {
        let list = NetworkList::from_conf(br#"{"name":"n","cniVersion":"1.0.0","type":"t","mtu":9}"#).unwrap();
        assert_eq!(list.name.as_str(), "n");
        assert_eq!(list.version, Version::V1_0_0);
        assert_eq!(list.plugins[0]["mtu"], 9);
        assert!(NetworkList::from_conf(br#"{"name":"n"}"#).is_err());
        assert!(NetworkList::from_conf(br#"{"type":"t"}"#).is_err());
    }

    #[test]
    fn a_list_needs_a_name_and_plugins_with_types() {
        for wrong in [
            r#"{"plugins":[{"type":"a"}]}"#,
            r#"{"name":"a/b","plugins":[{"type":"a"}]}"#,
            r#"{"name":"n","plugins":[]}"#,
            r#"{"name":"n"}"#,
            r#"{"name":"n","plugins":[{}]}"#,
            r#"{"name":"n","plugins":[1]}"#,
            r#"{"name":"n","plugins":[{"type":"a","capabilities":{"ips":"yes"}}]}"#,
            "[]",
            "{",
        ] {
            assert!(NetworkList::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_beside_the_file_adds_plugins_unless_told_not_to() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.conflist");
        fs::create_dir(dir.path().join("net")).unwrap();
        fs::write(dir.path().join("net/20.conf"), r#"{"type":"c"}"#).unwrap();
        fs::write(dir.path().join("net/10.conf"), r#"{"type":"b"}"#).unwrap();
        fs::write(dir.path().join("net/readme"), "no").unwrap();
        fs::write(&file, r#"{"name":"net","plugins":[{"type":"a"}]}"#).unwrap();
        let kinds = |list: NetworkList| -> Vec<String> {
            list.plugins.iter().map(|p| p["type"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(kinds(NetworkList::load(&file).unwrap()), ["a", "b", "c"]);
        fs::write(&file, r#"{"name":"net","loadOnlyInlinedPlugins":"true","plugins":[{"type":"a"}]}"#).unwrap();
        assert_eq!(kinds(NetworkList::load(&file).unwrap()), ["a"]);
    }
}

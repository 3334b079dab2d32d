//! Where the configuration file is looked for.

use std::path::PathBuf;

use super::Env;

/// The file to read: the one that is named, whether it exists or not, or else the first that
/// exists in the usual places. `Err` has the places that were looked at.
pub fn find(explicit: Option<PathBuf>, env: Env<'_>) -> Result<PathBuf, Vec<PathBuf>> {
    if let Some(path) = explicit.filter(|path| !path.as_os_str().is_empty()) {
        return Ok(path);
    }
    let places = places(env);
    match places.iter().position(|path| path.exists()) {
        Some(i) => Ok(places.into_iter().nth(i).expect("the position is in the list")),
        None => Err(places),
    }
}

/// Here, the user's configuration directory, the system's.
fn places(env: Env<'_>) -> Vec<PathBuf> {
    let directory = |name| env(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let user =
        directory("XDG_CONFIG_HOME").or_else(|| directory("HOME").map(|home| home.join(".config")));
    let mut places = vec![PathBuf::from("larder.toml")];
    places.extend(user.map(|dir| dir.join("larder/larder.toml")));
    places.push(PathBuf::from("/etc/larder/larder.toml"));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_file_comes_first_and_the_users_before_the_systems() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap().to_owned();
        let env = |name: &str| (name == "HOME").then(|| home.clone());
        assert_eq!(find(Some("x.toml".into()), &env), Ok("x.toml".into()));
        let users = dir.path().join(".config/larder/larder.toml");
        assert_eq!(places(&env)[1], users);
        let xdg = |name: &str| (name == "XDG_CONFIG_HOME").then(|| "/xdg".to_owned());
        assert_eq!(places(&xdg)[1], PathBuf::from("/xdg/larder/larder.toml"));
        let relative = |name: &str| (name == "XDG_CONFIG_HOME").then(|| "xdg".to_owned());
        assert_eq!(places(&relative).len(), 2);
        std::fs::create_dir_all(users.parent().unwrap()).unwrap();
        std::fs::write(&users, "").unwrap();
        assert_eq!(find(Some("".into()), &env), Ok(users));
    }
}

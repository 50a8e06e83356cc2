//! What `template.yaml` lets the users of its cache do.

/// Returns the rights of a cache user in the form of `ACL SETUSER`. `user` is the part of its resource's name between
/// `Cache` and `User`, such as `Turns`.
///
/// # Panics
/// If the template has no such user.
#[must_use]
pub fn access_string(template: &str, user: &str) -> String {
    let resource = format!("\n  Cache{user}User:\n");
    let (_, after) = template
        .split_once(&resource)
        .unwrap_or_else(|| panic!("the template has no {}", resource.trim()));
    let (_, rights) = after
        .split_once("AccessString:")
        .expect("a user with rights");
    let rights = rights.split("\n\n").next().expect("a paragraph");
    rights.trim_start_matches(" >-").trim().to_owned()
}

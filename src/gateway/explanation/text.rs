//! The text of an explanation.

use std::fmt;

use super::Explanation;
use super::parts::{
    AppRequest, ExplainedReading, ExplainedRoute, ExplainedTarget, ExplainedUser, WrittenField,
};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.method, self.url)?;
        match &self.user {
            Some(user) => writeln!(f, "  user      {user}")?,
            None => writeln!(f, "  user      none (no session)")?,
        }
        if let Some(target) = &self.target {
            writeln!(f, "  target    {target}")?;
        }
        for reading in &self.readings {
            writeln!(f, "  reading   {reading}")?;
        }
        if let Some(route) = &self.route {
            writeln!(f, "  route     {route}")?;
            if let Some(normal) = &route.covers {
                writeln!(
                    f,
                    "  covers    apps may read the path as {normal}, so the prefix {} covers it",
                    route.prefix
                )?;
            }
            let enforced = if route.enforce {
                ""
            } else {
                " (enforce = false)"
            };
            writeln!(f, "  rule      {}{enforced}", route.rule)?;
        }
        write!(f, "  decision  {}", self.decision)?;
        match (self.status, self.reason) {
            (Some(status), Some(reason)) => write!(f, " ({status}, reason {reason})")?,
            (Some(status), None) => write!(f, " ({status})")?,
            (None, _) => {}
        }
        write!(f, ": {}", self.why)?;
        match &self.app_request {
            Some(request) => write!(f, "\n{request}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ExplainedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = self.subject.as_deref().unwrap_or("without a subject");
        write!(f, "{subject} of the provider {}", self.provider)?;
        if let Some(email) = &self.email {
            let verified = if self.email_verified {
                ""
            } else {
                " (not verified)"
            };
            write!(f, ", email {email}{verified}")?;
        }
        if !self.groups.is_empty() {
            write!(f, ", groups {}", self.groups.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for ExplainedTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.path)?;
        self.query
            .iter()
            .try_for_each(|query| write!(f, "?{query}"))
    }
}

impl fmt::Display for ExplainedReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = self.routes.iter().map(|route| {
            if route.refused_forms.is_empty() {
                route.name.clone()
            } else {
                format!("{} (does not allow {})", route.name, route.refused_forms)
            }
        });
        let routes: Vec<String> = routes.collect();
        let routes = if routes.is_empty() {
            "none".to_owned()
        } else {
            routes.join(", ")
        };
        write!(f, "{} -> route {routes}", self.path)
    }
}

impl fmt::Display for ExplainedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (prefix {}", self.name, self.prefix)?;
        if !self.hosts.is_empty() {
            write!(f, ", hosts {}", self.hosts.join(", "))?;
        }
        match &self.upstream {
            Some(upstream) => write!(f, ", upstream {upstream}")?,
            None => f.write_str(", no upstream")?,
        }
        write!(f, ", providers {})", self.providers.join(", "))
    }
}

impl fmt::Display for AppRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let removed: Vec<&str> = self.removed_fields.iter().map(String::as_str).collect();
        writeln!(f, "  path      {}", self.path)?;
        writeln!(f, "  removes   the fields {}", removed.join(", "))?;
        write!(
            f,
            "  removes   the cookies {}",
            self.removed_cookies.join(", ")
        )?;
        for field in &self.written_fields {
            write!(f, "\n  writes    {field}")?;
        }
        Ok(())
    }
}

impl fmt::Display for WrittenField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(values) = &self.values {
            write!(f, ": {}", values.join(", "))?;
        }
        if self.is_secret {
            f.write_str(" (the value is secret)")?;
        }
        Ok(())
    }
}

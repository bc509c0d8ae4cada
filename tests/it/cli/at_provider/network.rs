//! Two networks in the lab: one that production stands in, and one that it does not.

use crate::lab::{Instance, MASTER, PASSWORD, REGION, RdsLab};

/// Makes the networks, and an instance that stands as production does.
pub(crate) async fn production(lab: &RdsLab, id: &str) -> Instance {
    make(lab).await;
    let client = lab.client(REGION).await;
    let new = client.create_db_instance().db_instance_identifier(id).db_instance_class("db.t3.micro");
    let new = new.engine("postgres").engine_version("15.8").allocated_storage(20).db_name("app");
    let new = new.db_subnet_group_name("production").vpc_security_group_ids("sg-production");
    // moto takes what is off in a restore for what is not said, and then has it as the source:
    // so the source is not protected from its removal.
    let new = new.backup_retention_period(7).deletion_protection(false);
    new.master_username(MASTER).master_user_password(PASSWORD).send().await.unwrap();
    lab.restorable(REGION, id).await;
    lab.instance(REGION, id).unwrap()
}

/// Makes the subnet groups `production`, `beside` in the same network, and `isolated`.
async fn make(lab: &RdsLab) {
    let production = vpc(lab, "10.1.0.0/16").await;
    let isolated = vpc(lab, "10.2.0.0/16").await;
    for (group, vpc, nets) in [
        ("production", &production, ["10.1.1.0/24", "10.1.2.0/24"]),
        ("beside", &production, ["10.1.3.0/24", "10.1.4.0/24"]),
        ("isolated", &isolated, ["10.2.1.0/24", "10.2.2.0/24"]),
    ] {
        let client = lab.client(REGION).await;
        let mut new = client.create_db_subnet_group().db_subnet_group_name(group).db_subnet_group_description(group);
        for (net, zone) in nets.into_iter().zip(["a", "b"]) {
            let zone = format!("{REGION}{zone}");
            let asked = [("VpcId", vpc.as_str()), ("CidrBlock", net), ("AvailabilityZone", &zone)];
            new = new.subnet_ids(told(&ec2(lab, "CreateSubnet", &asked).await, "subnetId"));
        }
        new.send().await.unwrap();
    }
}

async fn vpc(lab: &RdsLab, block: &str) -> String {
    told(&ec2(lab, "CreateVpc", &[("CidrBlock", block)]).await, "vpcId")
}

/// A call of a service that nothing else here has a client of.
async fn ec2(lab: &RdsLab, action: &str, parameters: &[(&str, &str)]) -> String {
    let signed = format!(
        "AWS4-HMAC-SHA256 Credential=AKIALIFEBOATTEST0001/20261129/{REGION}/ec2/aws4_request, SignedHeaders=host, Signature=0"
    );
    let mut form = reqwest::Url::parse("http://localhost/").unwrap();
    form.query_pairs_mut().extend_pairs([("Action", action), ("Version", "2016-11-15")]).extend_pairs(parameters);
    let request = reqwest::Client::new().post(lab.endpoint()).header("authorization", signed);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let answer = request.body(form.query().unwrap_or_default().to_owned()).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{action}: {text}");
    text
}

/// The text of the first element of this name.
fn told(xml: &str, name: &str) -> String {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name}: {xml}"));
    rest.split('<').next().unwrap().to_owned()
}

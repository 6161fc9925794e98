# SPDX-License-Identifier: Apache-2.0
module "nfs_server" {
  source     = "../charms/nfs-server/terraform"
  model_uuid = var.model_uuid

  base               = var.base
  channel            = var.channel
  config             = var.server_config
  constraints        = var.constraints
  storage_directives = var.storage_directives
}

module "nfs_client" {
  source     = "../charms/nfs-client/terraform"
  model_uuid = var.model_uuid

  base    = var.base
  channel = var.channel
  config  = merge(var.client_config, { mountpoint = var.mountpoint, size = tostring(var.size) })
}

resource "juju_integration" "share" {
  model_uuid = var.model_uuid

  application {
    name     = module.nfs_client.app_name
    endpoint = module.nfs_client.requires.nfs_share
  }
  application {
    name     = module.nfs_server.app_name
    endpoint = module.nfs_server.provides.nfs_share
  }
}

# One client beside each unit of these: all of them have the same share.
resource "juju_integration" "machines" {
  for_each   = var.applications
  model_uuid = var.model_uuid

  application {
    name     = module.nfs_client.app_name
    endpoint = module.nfs_client.requires.juju_info
  }
  application {
    name     = each.value
    endpoint = "juju-info"
  }
}

# SPDX-License-Identifier: Apache-2.0
resource "juju_application" "nfs_server" {
  model_uuid = var.model_uuid
  name       = var.app_name

  charm {
    name     = "nfs-server"
    channel  = var.channel
    revision = var.revision
    base     = var.base
  }

  config             = var.config
  constraints        = var.constraints
  units              = var.units
  storage_directives = var.storage_directives
  endpoint_bindings  = var.endpoint_bindings
}

# SPDX-License-Identifier: Apache-2.0
# A subordinate: its units are where those of the application are that it is integrated with.
resource "juju_application" "nfs_client" {
  model_uuid = var.model_uuid
  name       = var.app_name

  charm {
    name     = "nfs-client"
    channel  = var.channel
    revision = var.revision
    base     = var.base
  }

  config            = var.config
  endpoint_bindings = var.endpoint_bindings
}

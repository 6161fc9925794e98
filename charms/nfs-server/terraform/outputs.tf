# SPDX-License-Identifier: Apache-2.0
output "app_name" {
  description = "Name of the application in the model."
  value       = juju_application.nfs_server.name
}

output "provides" {
  description = "Endpoints that others may require, by their names with `_` for `-`."
  value = {
    cos_agent  = "cos-agent"
    filesystem = "filesystem"
    nfs_share  = "nfs-share"
  }
}

output "requires" {
  description = "Endpoints that others may provide, by their names with `_` for `-`."
  value       = {}
}

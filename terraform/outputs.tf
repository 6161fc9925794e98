# SPDX-License-Identifier: Apache-2.0
output "nfs_server" {
  description = "Name and endpoints of nfs-server, for further integrations."
  value       = module.nfs_server
}

output "nfs_client" {
  description = "Name and endpoints of nfs-client."
  value       = module.nfs_client
}

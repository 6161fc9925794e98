# SPDX-License-Identifier: Apache-2.0
variable "model_uuid" {
  description = "UUID of the model to deploy to."
  type        = string
  nullable    = false
}

variable "applications" {
  description = "Names of the applications whose units are to have the share. They are in the model already."
  type        = set(string)
  nullable    = false
}

variable "mountpoint" {
  description = "Directory to mount the share on, on each machine of the applications."
  type        = string
  nullable    = false
}

variable "size" {
  description = "Size of the share in GiB; -1 for all that the storage has left."
  type        = number
  nullable    = false
}

variable "storage_directives" {
  description = "Storage of nfs-server, for example `{ shares = \"500G\" }`; by default, on its root disk."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "constraints" {
  description = "Constraints of nfs-server's machine, for example `virt-type=virtual-machine` on LXD."
  type        = string
  default     = null
}

variable "base" {
  description = "Ubuntu of the machines: `ubuntu@22.04`, `ubuntu@24.04` or `ubuntu@26.04`."
  type        = string
  default     = "ubuntu@24.04"
  nullable    = false
}

variable "channel" {
  description = "Channel of Charmhub to deploy both charms from."
  type        = string
  default     = "latest/edge"
  nullable    = false
}

variable "server_config" {
  description = "Other options of nfs-server: the names and values of `juju config`."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "client_config" {
  description = "Other options of nfs-client: the names and values of `juju config`."
  type        = map(string)
  default     = {}
  nullable    = false
}

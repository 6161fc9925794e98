# SPDX-License-Identifier: Apache-2.0
variable "model_uuid" {
  description = "UUID of the model to deploy to."
  type        = string
  nullable    = false
}

variable "app_name" {
  description = "Name of the application in the model."
  type        = string
  default     = "nfs-client"
  nullable    = false
}

variable "channel" {
  description = "Channel of Charmhub to deploy from."
  type        = string
  default     = "latest/edge"
  nullable    = false
}

variable "revision" {
  description = "Revision of the charm; by default, the newest one in the channel."
  type        = number
  default     = null
}

variable "base" {
  description = "Ubuntu of the machines that it is on: `ubuntu@22.04`, `ubuntu@24.04` or `ubuntu@26.04`."
  type        = string
  default     = "ubuntu@24.04"
  nullable    = false
}

variable "config" {
  description = "Options of the charm: the names and values of `juju config`."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "endpoint_bindings" {
  description = "Network spaces of endpoints, for example `[{ endpoint = \"nfs-share\", space = \"storage\" }]`; without `endpoint`, that of all others."
  type        = set(object({ endpoint = optional(string), space = string }))
  default     = null
}

# The schema of metrics-pipeline as a Terraform resource. No provider is needed beyond the built-in one.
#
#   metrics-pipeline schema plan --json > schema.json
#   terraform plan      # shows what would change, as output `statements`
#   terraform apply     # runs it, unless the server changed since
terraform {
  required_version = ">= 1.5"
}

variable "plan_file" {
  description = "What `metrics-pipeline schema plan --json` printed."
  type        = string
}

variable "command" {
  description = "How to call the command line, where it can reach ClickHouse."
  type        = string
  default     = "metrics-pipeline"
}

variable "environment" {
  description = "METRICS_* settings for the command: at least METRICS_CLICKHOUSE__URL, or METRICS_SECRETS_DIR."
  type        = map(string)
  default     = {}
  sensitive   = true
}

locals {
  plan = jsondecode(file(var.plan_file))
}

resource "terraform_data" "schema" {
  input = local.plan.version
  # What is wanted, not what is missing: a plan made after the apply changes nothing.
  triggers_replace = [local.plan.wanted]

  lifecycle {
    precondition {
      condition     = length(local.plan.differences) == 0
      error_message = "The server's schema differs in a way that apply does not mend: ${join("; ", local.plan.differences)}"
    }
  }

  provisioner "local-exec" {
    command     = "${var.command} schema apply --expect ${local.plan.hash}"
    environment = var.environment
  }
}

check "schema" {
  assert {
    condition     = length(local.plan.statements) == 0 || terraform_data.schema.output != null
    error_message = "The server lacks ${length(local.plan.statements)} tables, views or columns."
  }
}

output "version" {
  description = "Version of metrics-pipeline that the schema is of."
  value       = local.plan.version
}

output "destructive" {
  description = "What would destroy data, and is left to `schema apply --allow-destructive`."
  value       = try(local.plan.destructive, [])
}

output "statements" {
  description = "What the server lacked when the plan was made; empty: nothing."
  value       = local.plan.statements
}

"""Writes template-managed.yaml: template.yaml, with chat-stream on Lambda Managed Instances.

A function's compute type is fixed when it is created, and SAM takes no condition where it is chosen, so no parameter
could switch it. Everything else is the same in both templates. This file states what differs, as replacements of text:
each must fit exactly once, so a change of template.yaml that one of them depends on is an error here.

`make template-managed` runs it, and a test compares its result with the file."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Text of template.yaml, and what stands in its place.
CHANGES = (
    # --- What this template is
    (
        """\
AWSTemplateFormatVersion: "2010-09-09"
""",
        """\
# Derived from template.yaml by infra/managed.py. Change one of these, then run `make template-managed`.
AWSTemplateFormatVersion: "2010-09-09"
""",
    ),
    (
        """\
  companion-chat: a chat backend that streams its replies. One regional REST API, its functions, and the alarms that watch them.
""",
        """\
  companion-chat, with many turns in each process of chat-stream, on instances that Lambda manages: for steady load.
""",
    ),
    # --- Parameters: the VPC is required, and limits of instances replace the reserved concurrency
    (
        """\
        Parameters: [VpcId, SubnetIds, SecurityGroupIds]
""",
        """\
        Parameters: [VpcId, SubnetIds, SecurityGroupIds]
      - Label: { default: Instances of chat-stream }
        Parameters:
          - ChatStreamsPerEnvironment
          - ChatEnvironmentMegabytes
          - ChatMinEnvironments
          - ChatMaxEnvironments
          - InstanceMaxVcpus
          - InstanceTypes
""",
    ),
    ("          - ChatMemorySize\n          - ChatReservedConcurrency\n", ""),
    (
        """\
    Description: VPC of SubnetIds. Empty runs the functions outside any VPC.
    Type: String
    Default: ""
    AllowedPattern: ^(vpc-([0-9a-f]{8}|[0-9a-f]{17}))?$
""",
        """\
    Description: VPC of SubnetIds. The instances are in it, and so are the functions.
    Type: String
    AllowedPattern: ^vpc-([0-9a-f]{8}|[0-9a-f]{17})$
""",
    ),
    (
        """\
    Type: String
    Default: ""
    AllowedPattern: ^(subnet-[0-9a-f]+(,subnet-[0-9a-f]+)*)?$
""",
        """\
    Type: String
    AllowedPattern: ^subnet-[0-9a-f]+(,subnet-[0-9a-f]+)*$
""",
    ),
    (
        """\
  # --- Memory and context
""",
        """\
  # --- Instances of chat-stream
  ChatStreamsPerEnvironment:
    Description: Turns that one process serves at once. Lambda is reported to refuse more than 64 for each virtual CPU.
    Type: Number
    Default: 64
    MinValue: 1
    MaxValue: 1600
  ChatEnvironmentMegabytes:
    Description: Memory of one process. It has one virtual CPU for each 2,048 MB.
    Type: Number
    Default: 2048
    MinValue: 2048
    MaxValue: 32768
  ChatMinEnvironments:
    Description: Processes that always run. Lambda's own default is 3, one for each zone.
    Type: Number
    Default: 3
    MinValue: 1
    MaxValue: 15000
  ChatMaxEnvironments:
    Description: Processes that may run. Times ChatStreamsPerEnvironment, it limits the turns at once; more are refused.
    Type: Number
    Default: 30
    MinValue: 1
    MaxValue: 15000
  InstanceMaxVcpus:
    Description: Virtual CPUs of all instances together, a limit of the cost. Two versions run during a deployment.
    Type: Number
    Default: 60
    MinValue: 2
    MaxValue: 15000
  InstanceTypes:
    Description: Instance types to choose from, comma-separated, such as c8g.xlarge. All must be arm64. Empty lets Lambda choose.
    Type: String
    Default: ""
    AllowedPattern: ^([a-z0-9-]+\\.[a-z0-9-]+(,[a-z0-9-]+\\.[a-z0-9-]+)*)?$

  # --- Memory and context
""",
    ),
    (
        """\
  # A turn mostly waits for the model, and waiting is billed by memory. CPU grows with memory, and
  # `make bench BENCH_ONLY=small` measures what a turn needs of it. Above 1,769 MB a process has more than one CPU, which a
  # turn has no use for.
  ChatMemorySize:
    Description: Memory of chat-stream, in MB. More memory is more CPU too, up to a whole one with 1769.
    Type: Number
    Default: 128
    MinValue: 128
    MaxValue: 1769
  # All are 0, because a reservation is taken from the account's limit, which may be as low as 10, and Lambda refuses one
  # that leaves less than 100 to everything else. To keep a flood of chats from starving the other functions, limit chats
  # alone: see docs/deploy.md.
  ChatReservedConcurrency:
    Description: Concurrency reserved for chat-stream, and its limit. 0 reserves and limits nothing.
    <<: &reserved-concurrency { Type: Number, Default: 0, MinValue: 0 }
  StopReservedConcurrency: { <<: *reserved-concurrency, Description: "Concurrency reserved for stop-stream, and its limit. 0 reserves and limits nothing." }
""",
        """\
  # All are 0, because a reservation is taken from the account's limit, which may be as low as 10, and Lambda refuses one
  # that leaves less than 100 to everything else. ChatMaxEnvironments limits chats.
  StopReservedConcurrency:
    Description: Concurrency reserved for stop-stream, and its limit. 0 reserves and limits nothing.
    <<: &reserved-concurrency { Type: Number, Default: 0, MinValue: 0 }
""",
    ),
    ("  ReserveChat: !Not [!Equals [!Ref ChatReservedConcurrency, 0]]\n", ""),
    (
        """\
  TlsCaLayer: !Not""",
        """\
  InstanceTypesNamed: !Not [!Equals [!Ref InstanceTypes, ""]]
  TlsCaLayer: !Not""",
    ),
    # --- The rule that the VPC is complete has nothing left to check
    (
        """\
  VpcIsComplete:
    Assertions:
      - Assert: !Or
          - !And [!Equals [!Ref VpcId, ""], !Equals [!Ref SubnetIds, ""], !Equals [!Ref SecurityGroupIds, ""]]
          - !Not [!Or [!Equals [!Ref VpcId, ""], !Equals [!Ref SubnetIds, ""]]]
        AssertDescription: VpcId and SubnetIds go together, and SecurityGroupIds need both.
""",
        "",
    ),
    (
        """\
  FunctionSecurityGroup:
    Type: AWS::EC2::SecurityGroup
    Condition: InVpc
""",
        """\
  FunctionSecurityGroup:
    Type: AWS::EC2::SecurityGroup
""",
    ),
    # --- chat-stream and its instances
    (
        """\
  ChatStreamFunction:
    Type: AWS::Serverless::Function
""",
        """\
  # SAM adds the role with which Lambda starts and ends the instances.
  ChatCapacity:
    Type: AWS::Serverless::CapacityProvider
    Properties:
      VpcConfig:
        SubnetIds: !Split [",", !Ref SubnetIds]
        SecurityGroupIds: !If
          - MoreSecurityGroups
          - !Split [",", !Sub "${FunctionSecurityGroup},${SecurityGroupIds}"]
          - [!Ref FunctionSecurityGroup]
      InstanceRequirements:
        Architectures: [arm64]
        AllowedTypes: !If [InstanceTypesNamed, !Split [",", !Ref InstanceTypes], !Ref "AWS::NoValue"]
      ScalingConfig: { MaxVCpuCount: !Ref InstanceMaxVcpus }

  ChatStreamFunction:
    Type: AWS::Serverless::Function
    # The capacity provider has the VPC. The function must not have it too, not even as !Ref AWS::NoValue.
    IgnoreGlobals: [VpcConfig]
""",
    ),
    (
        """\
            comment: No variable holds a secret, only ARNs of secrets, so Lambda's own key is enough. Another key would be one more call in each cold start.
""",
        """\
            comment: No variable holds a secret, only ARNs of secrets, so Lambda's own key is enough. Another key would be one more call in each cold start.
          - id: CKV_AWS_115
            comment: Its environments and their instances are limited instead, by ChatMaxEnvironments and InstanceMaxVcpus.
          - id: CKV_AWS_117
            comment: Its instances are in the VPC of the capacity provider, and a function on instances must not name one itself.
""",
    ),
    (
        "      MemorySize: !Ref ChatMemorySize\n",
        """\
      MemorySize: !Ref ChatEnvironmentMegabytes
      CapacityProviderConfig:
        # The linter refuses !GetAtt here, which SAM would accept.
        Arn: !Sub "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:capacity-provider:${ChatCapacity}"
        # Lambda sets AWS_LAMBDA_MAX_CONCURRENCY to this, and the function polls for as many invocations at once.
        PerExecutionEnvironmentMaxConcurrency: !Ref ChatStreamsPerEnvironment
        ExecutionEnvironmentMemoryGiBPerVCpu: 2
      FunctionScalingConfig:
        MinExecutionEnvironments: !Ref ChatMinEnvironments
        MaxExecutionEnvironments: !Ref ChatMaxEnvironments
      # Without this a second version, $LATEST.PUBLISHED, would have as many environments of its own.
      PublishToLatestPublished: false
""",
    ),
    (
        '      ReservedConcurrentExecutions: !If [ReserveChat, !Ref ChatReservedConcurrency, !Ref "AWS::NoValue"]\n',
        "",
    ),
)


def derive(template: str) -> str:
    """Returns template-managed.yaml for a template.yaml."""
    for before, after in CHANGES:
        if template.count(before) != 1:
            raise SystemExit(f"managed.py: found {template.count(before)} times, and not once:\n{before}")
        template = template.replace(before, after)
    return template


if __name__ == "__main__":
    text = derive((ROOT / "template.yaml").read_text(encoding="utf-8"))
    (ROOT / "template-managed.yaml").write_text(text, encoding="utf-8")

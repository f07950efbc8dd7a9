"""How prompt injections are worded, and a model that talks about itself. `injection.py` uses these patterns."""

import re

WRITE_VERBS = (
    r"(?:respond|repl(?:y|ies)|answer|output|print|write|say|return|repeat|translate|summari[sz]e|rewrite|generate|"
    r"compose|produce|state|emit|type|recite|tell|give|speak|reveal|display|list|show|run|execute|decode|obey|comply|"
    r"refuse)"
)
EDIT_VERBS = (
    r"(?:append|add|include|insert|begin|start|end|finish|close|sign|open|copy|reproduce|put|place|prefix|preface|"
    r"mention|recommend|rate|classify|title|continue|complete|replace|use|format|conclude|render|embed|preserve|keep|"
    r"carry|ask)"
)
COMMAND_VERBS = rf"(?:{WRITE_VERBS}|{EDIT_VERBS})"
BEFORE_COMMAND = (
    r"(?:^\W*|[:;,—–\"“«'`(>-]\s*|\b(?:please|now|instead|then|must|should|just|only|simply|and|to|will|shall|always|"
    r"also|next|first|finally|sure|you)\s+)"
)
"""What stands before a verb of command."""
INSTRUCTIONS = r"(?:instructions?|prompts?|rules|directions|guidelines|directives|orders|commands|constraints|tasks?)"
PART = r"(?:paragraph|sentence|line|notice|instruction|message|text|note)"
INPUT = r"(?:passage|document|input|article|text|page|task|request)"
OUTPUT = r"(?:outputs?|responses?|rewrites?|rewriting|completions?|generations?|rewritten (?:text|version)s?)"
YOUR_OUTPUT = (
    rf"(?:\b(?:your|its|any|every|each|the)\s+(?:\w+\s+)?{OUTPUT}\b|\b(?:your|every|each)\s+(?:\w+\s+){{0,2}}(?:reply|"
    r"answer|summary|translation|lesson|paraphrase|text|list|role|developers?|creators?|instructions?|guidelines)\b)"
)
"""A phrase for a model's output ("the rewrite", "your reply"), or for its role, makers or instructions."""
MODEL = (
    r"\b(?:AI|A\.I\.|LLMs?|GPT|(?:chat)?bots?|(?:large )?language models?|(?:AI|automated|automatic|virtual|helpful|"
    r"machine) (?:agents?|systems?|readers?|tools?|rewriters?)|assistants?|rewriting (?:model|engine|system|tool)|"
    r"the model)\b"
)
REWRITE_VERBS = r"(?:rewrit|rephras|paraphras|summari[sz]|retell|retold|translat|condens|process|recap)\w*"


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


STRONG = _any(
    r"\b(?:ignore|disregard|forget|override|bypass|discard|stop following|(?:do not|don't) follow|set aside|"
    r"cancel)\b.{0,40}\b(?:previous|prior|earlier|above|preceding|before|all|any|your|system|original|initial|"
    rf"current|these|given)\b.{{0,30}}\b{INSTRUCTIONS}\b",
    r"\b(?:ignore|disregard|forget)\b.{0,20}\b(?:everything|anything|all|what(?:ever)?)\b.{0,30}\b(?:above|"
    r"before this|told (?:before|so far|above)|said so far)\b",
    r"(?:^|[.:;,\"“]\s*|\b(?:and|now|please)\s+)(?:ignore|disregard|forget|never mind|skip)\s+(?:the|"
    rf"this)\s+(?:\w+ )?{INPUT}\b",
    r"\b(?:reveal|print|repeat|output|show|leak)\b.{0,40}\b(?:system|hidden|initial|your) (?:prompt|message|"
    r"instructions?)\b",
    rf"{MODEL}.{{0,80}}{BEFORE_COMMAND}{COMMAND_VERBS}\b.{{0,120}}(?:[\"“«`':]|\b(?:this|the above|{OUTPUT}|your|only|"
    r"it)\b)",
    rf"{MODEL}(?:-only)?\s*[:,)]\s*{COMMAND_VERBS}\b",
    rf"^\W*(?:any |all |every )?{MODEL}.{{0,60}}\bthis\b.{{0,60}}\b(?:must|should|shall)\b",
    r"\b(?:note|attention|message|instructions?|notice|memo|request|task|dear|hey|hello|"
    rf"to)\b:?.{{0,20}}{MODEL}\s*[:,.!]?.{{0,80}}\b(?:{WRITE_VERBS}|{EDIT_VERBS}|you|your)\b",
    rf"{BEFORE_COMMAND}(?:{EDIT_VERBS}|repeat)\b.{{0,30}}\bthis (?:very )?{PART}\b.{{0,60}}\b(?:your|every|each|"
    rf"any) (?:\w+ )?{OUTPUT}\b",
    rf"\b(?:every|each|any|all|your) (?:\w+ )?{OUTPUT}\b.{{0,40}}\b(?:of|for) this {INPUT}\b.{{0,20}}\b(?:must|should|"
    r"shall|has to)\b",
    rf"\bwhoever\b.{{0,20}}\b{REWRITE_VERBS} (?:of )?(?:this|the|it)\b",
    rf"^\W*(?:end|start|beginning) of (?:the )?{INPUT}\b|\b{INPUT} (?:ends here|is over now)\b",
    r"\"role\"\s*:\s*\"(?:system|user|assistant)\"",
    # German, French, Spanish, Portuguese, Italian, Russian, Chinese, Japanese, Korean, Dutch, Polish, Arabic, Turkish
    r"\b(?:ignoriere|ignorieren sie|vergiss|vergessen sie|missachte)\b.{0,60}(?:anweisung|instruktion|befehl|vorgabe|"
    r"aufgabe)",
    r"\b(?:ignore[zr]?|oublie[zr]?)\b.{0,60}\b(?:instructions|consignes|directives)",
    r"\b(?:ignor[ae]|olvid[ae]|esqueça|desconsidere|haz caso omiso)\b.{0,60}(?:instrucciones|instruções|indicaciones|"
    r"órdenes)",
    r"\b(?:ignora(?:te)?|dimentica(?:te)?)\b.{0,60}(?:istruzioni|indicazioni)",
    r"(?:игнорируй|забудь|не обращай|проигнорируй)\w*.{0,60}(?:инструкц|указани|команд)",
    r"(?:忽略|无视|忘记|不要理会).{0,20}(?:指令|指示|说明|提示|要求)",
    r"(?:指示|命令|プロンプト).{0,12}(?:無視|忘れ)|(?:지시|명령).{0,20}무시",
    r"(?:negeer|vergeet)\b.{0,60}(?:instructies|opdracht)|(?:zignoruj|zapomnij)\b.{0,60}(?:instrukcj|polece)",
    r"تجاهل.{0,40}(?:التعليمات|الأوامر)|talimat\w*.{0,40}(?:yok say|unut|görmezden)",
)
"""A command that can be meant for nobody but a model, in one sentence that holds `SUSPECT`."""

LOOSE = _any(
    rf"\b(?:system|hidden|initial|original) (?:prompt|message|instructions?)\b.{{0,80}}\b(?:{WRITE_VERBS}|"
    rf"{EDIT_VERBS}|is now|updated?|override)\b",
    rf"\byou are (?:now |no longer |henceforth )?(?:an? |the |in )?(?:\w+[ -]){{0,3}}?(?:{MODEL}|model\b|persona\b|"
    r"developer mode|DAN\b|unrestricted)",
    r"\bfrom now on,? you\b|\b(?:you|must|should|now) (?:act|speak|respond|reply|answer|write) as (?:if you|an? |"
    r"though)\b",
    rf"{BEFORE_COMMAND}{COMMAND_VERBS}\b.{{0,160}}{YOUR_OUTPUT}",
    rf"{YOUR_OUTPUT}.{{0,30}}\b(?:must|should|shall|needs? to|has to|have to)\b",
    rf"\b{OUTPUT}\b.{{0,40}}\b(?:shall|must|should) (?:read|say|contain|carry|include|end|begin|start|close|open)\b",
    rf"[\"”»].{{0,20}}\bin (?:the|your|any|every) {OUTPUT}\b",
    r"\bwhen(?:ever)? (?:you )?(?:are )?(?:asked to )?(?:rewrit|summari|paraphras|translat|"
    rf"process)\w*.{{0,80}}\b{COMMAND_VERBS}\b",
    rf"{BEFORE_COMMAND}(?:{EDIT_VERBS}|repeat)\b.{{0,30}}\bthis (?:very )?{PART}\b",
    rf"\b(?:anyone|anybody|everyone|those|all|you)\b.{{0,20}}\b{REWRITE_VERBS} (?:of )?(?:this|the) {INPUT}\b",
    rf"\b(?:this|the) {INPUT}\b.{{0,20}}\b(?:is|are|gets?) {REWRITE_VERBS}\b.{{0,40}}\b(?:must|should|shall|has to)\b",
    rf"\b{REWRITE_VERBS} of (?:this|the) {INPUT} (?:opens?|begins?|starts?|ends?|closes?|says?|reads?|contains?|"
    r"carr(?:y|ies)|holds?)\b",
    r"\b(?:need|want|expect) from you\b|\byou (?:will|shall|must|are to|have to) (?:only |"
    rf"just )?{WRITE_VERBS}\b.{{0,60}}\b(?:only|nothing|exactly)\b",
    rf"\b(?:new|real|actual|updated|next|true) {INSTRUCTIONS}\b.{{0,40}}(?::|\bis\b|\bare\b|\bfollow|\breplaces?\b)",
    r"(?:instead of|rather than|don't|do not|stop|in place of) (?:the )?(?:rewrit|summari|paraphras)\w*",
    r"\b(?:drop|leave|quit|abandon|stop) your (?:\w+ )?(?:assignment|task|job|work)\b|\byour (?:current|"
    r"previous) (?:assignment|task)\b",
)
"""A command to a model, or one that manuals, forms and letters give to people. A rewrite may repeat it, since it may be
meant for people, but must not write what it demands."""

WEAK = _any(
    rf"{BEFORE_COMMAND}{WRITE_VERBS}\b(?![\"”»']).{{0,80}}(?:\b(?:only|exactly|instead|nothing|verbatim|word for word|"
    r"the following)\b|\bno other\b|\b(?:the )?(?:word|phrase|sentence|code|string)s?\b|[\"“«`])",
    rf"\b(?:only|just|simply|(?:can|could|would|will) you(?: please)?) (?:{WRITE_VERBS}|draft)\b",
    rf"{BEFORE_COMMAND}{WRITE_VERBS}\b.{{0,60}}\b(?:in|into) (?:all caps|capitals?|capital letters|base64|json|code|"
    r"french|german|spanish|italian|latin|russian|chinese|japanese|rhyme|verse|haiku)\b",
    r"^\W{0,4}(?:system|user|assistant|human|ai|model|developer|instructions?)\s*[:>\]]",
    r"\bwrite (?:me |us )?an? (?:\w+ )?(?:poem|haiku|song|limerick|joke|story|recipe|e-?mail|function|program|"
    r"script)\b",
    r"\byou are (?:now (?!\d)|no longer|henceforth)|\b(?:pretend|imagine) (?:to be|that you are|you are)\b|"
    r"\b(?:whatever|everything|anything) you (?:write|say|output|produce|generate)\b",
    r"^\W*(?:rewrite|response|output|answer|summary|completion|a)\s*:\s*$",
)
"""What may be a command to a model, or one to the document's readers."""

SUSPECT = re.compile(
    r"instruct|prompt|rules|direction|guideline|directive|orders|command|constraint|task|everything|anything|told|"
    r"so far|passage|document|input|article|page|text|request|message|output|response|rewrit|completion|generation|"
    r"reply|answer|summar|translat|lesson|paraphras|list|role|developer|creator|\bai\b|a\.i\.|llm|gpt|chatbot|model|"
    r"automated|virtual|helpful|assistant|you are|from now on|pretend|imagine|process|this (?:very )?(?:paragraph|"
    r"sentence|line|notice|note)|bots?\b|automatic|machine|whoever|anyone|anybody|everyone|those|retell|retold|"
    r"condens|recap|rephras|whatever you|what you|from you|you (?:will|shall|must|are|have)|assignment|your (?:job|"
    r"work)|never mind|[\u0370-\u1fff\u2e80-\uffff]|ignor|vergiss|vergessen|missachte|oublie|olvid|esque|descon|"
    r"haz caso|dimentic|negeer|vergeet|zapomnij|talimat| as (?:if|an?|though)\b"
)
"""What a lower-case sentence must hold to match STRONG or LOOSE: to look for this first is five times faster."""

COMMAND = re.compile(rf"{BEFORE_COMMAND}{COMMAND_VERBS}\b", re.IGNORECASE)
"""A command of any kind, which counts right after an injection."""

REPORTED = re.compile(
    r"\b(?:instruct|prompt|inject|ask|tell|told|command|order|say|said|claim|attempt|tri(?:es|ed)|request|demand|"
    r"embed|hidden|comment|attack|reads?|quot)\w*|\b(?:such as|for (?:example|instance))\b",
    re.IGNORECASE,
)
"""A word of a sentence that reports a command."""

ASSISTANT = _any(
    r"\b(?:as|i am|i'm) (?:just |only )?an? (?:helpful )?(?:AI|artificial intelligence|(?:large )?language model|"
    r"chatbot|virtual assistant)\b(?! \w+er\b)",
    r"\b(?:i'm|i am) (?:really |very |so )?(?:sorry|afraid),? (?:but )?(?:that )?(?:i|as)\b.{0,20}\b(?:can't|cannot|"
    r"can not|unable|won't|not able|don't|am not|language model|an AI)\b",
    r"\bi(?: can't| cannot| can not| won't| will not| am unable to| am not able to|'m unable to|"
    r"'m not able to) (?:assist|help with|comply|fulfil+|rewrite|provide|generate|follow (?:the|your|that|this)|"
    r"complete (?:the|your|that|this)|do that|process|summari[sz]e|create)\b",
    r"\bhow (?:can|may) i (?:help|assist) you\b",
    r"\bmy (?:system prompt|(?:previous )?instructions|training data|knowledge cutoff)\b.{0,20}\b(?:is|are|says?|"
    r"tells?|ha(?:s|ve) been)\b",
    r"\b(?:okay|ok|sure|understood|certainly|of course|alright)\b[,.!]? i(?:'ll| will| have|'ve)? (?:ignor|disregard|"
    r"forg[eo]t|follow|comply|obey)\w*",
)
"""A model that talks about itself, or declines."""

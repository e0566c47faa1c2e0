"""What came of a survey of stock configs, as tables."""

from collections import Counter

from survey_structures import groups_of

KINDS = ('passes', 'cannot be built here', 'cannot be run here', 'half is out of reach', 'fails')


def table_of(lines, found):
    """The report: by package, how many configs got how far; and why others did not."""
    groups = groups_of(lines)
    rows, reasons = {}, {}
    for package in dict.fromkeys(name.partition(':')[0] for name in lines):
        row = rows[package] = Counter()
        for names in groups.values():
            if not names[0].startswith(package):
                continue
            record = next((found[n] for n in names if n in found), None)
            kind = 'not examined yet' if record is None else kind_of(record)
            row['structures'] += 1
            row['configs'] += len(names)
            row[kind] += len(names)
            if kind not in ('passes', 'not examined yet'):
                why = reasons.setdefault((package, kind, short_reason(record)), [])
                why.extend(names)
        row['no model'] = sum(
            name.startswith(package) and 'model' not in line for name, line in lines.items()
        )
    keys = ['configs', 'no model', 'structures', 'not examined yet', *KINDS]
    text = ['| package | ' + ' | '.join(keys) + ' |', '| --- |' + ' ---: |' * len(keys)]
    text += [
        f'| {package} | ' + ' | '.join(str(row[key]) for key in keys) + ' |'
        for package, row in rows.items()
    ]
    text += [
        '',
        '| package | what | configs | for instance | why |',
        '| --- | --- | ---: | --- | --- |',
    ]
    for (package, kind, why), names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        text.append(
            f'| {package} | {kind} | {len(names)} | `{names[0].partition("::")[2]}` | {why} |'
        )
    return '\n'.join(text)


def kind_of(record):
    """What a record says of its structure."""
    step = record['step']
    if step == 'passes':
        return step
    if step == 'build':
        return 'cannot be built here'
    if step.startswith('its own') or 'the forward of' in record['reason']:
        return 'cannot be run here'
    return 'half is out of reach' if 'BudgetError' in record['reason'] else 'fails'


def short_reason(record):
    """Why, in a line of a table."""
    if 'BudgetError' in record['reason']:
        return f'lowest {record["lowest"]:.0%}; ' + ', '.join(
            f'{count} {why}' for why, count in record['fixed'].items()
        )
    text = ' '.join(record['reason'].split('site-packages/')[-1].split()).replace('|', '/')
    return f'{record["step"]}: {text[:160]}'

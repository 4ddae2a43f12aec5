// Takes the pictures of docs/gallery.md and writes that page: `.ci/messages/run --gallery`.
//
// Teams cards are drawn by Microsoft's own renderer in the colours of its client, mails by Chromium; Slack and the other
// chats by the page of `halo-relay render --html`.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

const BYTES_MAX = 100_000;

// What is shown: a key and shape of the messages, and what is said about it.
const SHOWN = [
  ['website-cert-expired.single', 'One event'],
  ['all-kinds.digest', 'A digest: more came than the limit lets through'],
  ['pci-report-rejected.late', 'Late, and it says why'],
  ['destination-lost.notice', 'News of the relay itself: a destination takes no messages'],
];
// Of these the digests are long lists of data.
const DATA = ['pagerduty', 'opsgenie'];
const SERVICES = ['discord', 'google_chat', 'mattermost', 'rocket_chat', 'zulip', 'telegram', 'ntfy', 'pagerduty', 'opsgenie'];

const taken = [];

async function take(directory, name, alt, shoot) {
  mkdirSync(directory, { recursive: true });
  const path = join(directory, `${name}.png`);
  await shoot(path);
  const { size } = statSync(path);
  if (size > BYTES_MAX) throw new Error(`${name}.png has ${size} bytes; a picture may have ${BYTES_MAX}`);
  taken.push({ name, alt });
}

const slug = (stem) => stem.replace('.', '-');

// ---------------------------------------------------------------- Teams

const container = (background, text, subtle, lines) => ({
  backgroundColor: background, borderColor: lines,
  foregroundColors: Object.fromEntries(['default', 'accent', 'good', 'warning', 'attention', 'dark', 'light'].map((name) => [name, { default: text, subtle }])),
});

/** Near to what Teams' own client uses. */
function look(dark) {
  const [text, subtle, line] = dark ? ['#ffffff', '#adadad', '#3d3d3d'] : ['#242424', '#616161', '#e0e0e0'];
  const pages = dark
    ? { default: '#292929', emphasis: '#333333', accent: '#2f2f4a', good: '#052505', warning: '#463100', attention: '#3f1011' }
    : { default: '#ffffff', emphasis: '#f5f5f5', accent: '#e8ebfa', good: '#e7f2da', warning: '#fbf6d9', attention: '#fcf4f6' };
  return {
    fontFamily: '"Segoe UI", "Liberation Sans", Arial, sans-serif',
    spacing: { small: 8, default: 12, medium: 16, large: 20, extraLarge: 24, padding: 16 },
    separator: { lineThickness: 1, lineColor: line },
    fontSizes: { small: 12, default: 14, medium: 16, large: 20, extraLarge: 24 },
    fontWeights: { lighter: 300, default: 400, bolder: 600 },
    containerStyles: Object.fromEntries(Object.entries(pages).map(([name, page]) => [name, container(page, text, subtle, line)])),
    actions: { actionsOrientation: 'horizontal', actionAlignment: 'left', buttonSpacing: 8, maxActions: 6, spacing: 'default' },
  };
}

export async function cards(page, all, directory) {
  rmSync(directory, { recursive: true, force: true });
  taken.length = 0;
  const byName = new Map(all.map(([where, card]) => [where.replace(/^teams\/|\.json$/g, ''), card]));
  for (const [stem, alt] of SHOWN) {
    for (const dark of stem.includes('digest') || stem.includes('single') ? [false, true] : [false]) {
      const host = look(dark);
      await page.setViewportSize({ width: 640, height: 400 });
      await page.evaluate(([card, host, dark]) => {
        window.hostConfig = host;
        document.head.innerHTML = `<style>body { margin: 0; padding: 16px; background: ${dark ? '#1f1f1f' : '#f5f5f5'}; }
          #card { border: 1px solid ${dark ? '#3d3d3d' : '#d1d1d1'}; border-radius: 4px; overflow: hidden; background: ${dark ? '#292929' : '#fff'}; }
          .ac-pushButton { font: 600 14px "Segoe UI", "Liberation Sans", Arial; padding: 6px 14px; border: 1px solid ${dark ? '#666' : '#d1d1d1'}; border-radius: 4px;
            background: transparent; color: ${dark ? '#fff' : '#242424'}; }
          .ac-textRun a, a { color: ${dark ? '#7f85f5' : '#5b5fc7'}; }</style>`;
        document.body.innerHTML = '<div id="card"></div>';
        window.showCard(card);
      }, [byName.get(stem), host, dark]);
      const box = page.locator('body');
      await take(directory, `teams-${slug(stem)}${dark ? '-dark' : ''}`, `Microsoft Teams: ${alt}${dark ? ', dark' : ''}`, (path) => box.screenshot({ path }));
    }
  }
}

// ---------------------------------------------------------------- Mail

export async function mails(browser, all, directory) {
  const byName = new Map(all.map((mail) => [mail.where.replace(/^email\/|\.eml$/g, ''), mail]));
  const views = [
    ['website-cert-expired.single', 'desktop', { width: 760, height: 300 }, 'light'],
    ['website-cert-expired.single', 'desktop-dark', { width: 760, height: 300 }, 'dark'],
    ['website-cert-expired.single', 'phone', { width: 360, height: 300 }, 'light'],
    ['all-kinds.digest', 'desktop', { width: 760, height: 300 }, 'light'],
    ['all-kinds.digest', 'phone-dark', { width: 360, height: 300 }, 'dark'],
    ['pci-report-rejected.late', 'desktop', { width: 760, height: 300 }, 'light'],
  ];
  for (const [stem, name, viewport, colorScheme] of views) {
    const context = await browser.newContext({ viewport, colorScheme, deviceScaleFactor: stem.includes('digest') ? 1 : 1.25 });
    const page = await context.newPage();
    await page.setContent(byName.get(stem).html);
    await take(directory, `email-${slug(stem)}-${name}`, `Mail: ${SHOWN.find(([shown]) => shown === stem)[1]}, ${name.replace('-', ', ')}`, (path) => page.screenshot({ path, fullPage: true }));
    await context.close();
  }
}

// ---------------------------------------------------------------- Slack and other chats, by our own preview

const RULES = `
sources: { push: { type: webhook, listen: "127.0.0.1:0", token: "not-a-secret-but-long-enough" } }
destinations: { sec-slack: { type: slack, url: "https://hooks.slack.com/services/T/B/x" } }
rules: [{ name: certificates, when: { key: "*" }, severity: high, send: [sec-slack] }]
unrouted: { drop: "not of interest here" }
`;

export async function previews(browser, messages, relay, directory) {
  const rules = join(dirname(messages), 'message-checks', 'gallery.yaml');
  writeFileSync(rules, RULES);
  const page = execFileSync(relay, ['-c', rules, 'render', '--key', 'issue-add', '--to', 'sec-slack', '--html', '-'], { encoding: 'utf8' });
  const [head, rest] = page.split(/(?<=id="message">)/);
  const tail = rest.slice(rest.indexOf('</script>'));
  const shoot = async (channel, stem, alt, colorScheme, phone) => {
    const file = join(messages, channel, `${stem}.json`);
    const body = JSON.parse(readFileSync(file, 'utf8'));
    const content = channel === 'webhook' ? { headers: { 'webhook-id': 'hr_a1b2c3_4d2' }, body } : body;
    const message = { channel, destination: `our-${channel}`, at: '2026-11-23T09:42:00Z', bytes: statSync(file).size, content };
    const context = await browser.newContext({ viewport: { width: phone ? 400 : 760, height: 400 }, colorScheme, deviceScaleFactor: stem.includes('digest') || channel !== 'slack' ? 1 : 1.25, timezoneId: 'UTC' });
    const tab = await context.newPage();
    const asked = [];
    tab.on('request', (request) => asked.push(request.url()));
    tab.on('pageerror', (error) => asked.push(error.message));
    await tab.setContent(head + JSON.stringify(message).replaceAll('<', '\\u003c') + tail);
    if (asked.length) throw new Error(`the preview of ${channel} asks for ${asked[0]}`);
    const drawn = tab.locator('.shown .message');
    const name = `${channel}-${slug(stem)}${phone ? '-phone' : ''}${colorScheme === 'dark' ? '-dark' : ''}`;
    await take(directory, name, `${channel.replace('_', ' ')}: ${alt}${phone ? ', phone' : ''}${colorScheme === 'dark' ? ', dark' : ''}`, (path) => drawn.screenshot({ path }));
    await context.close();
  };
  for (const [stem, alt] of SHOWN) await shoot('slack', stem, alt, 'light');
  await shoot('slack', SHOWN[0][0], SHOWN[0][1], 'dark');
  await shoot('slack', SHOWN[1][0], SHOWN[1][1], 'light', true);
  await shoot('webhook', SHOWN[0][0], SHOWN[0][1], 'light');
  for (const service of SERVICES) {
    if (!existsSync(join(messages, service))) continue;
    for (const [stem, alt] of SHOWN.slice(0, DATA.includes(service) ? 1 : 2)) await shoot(service, stem, alt, 'light');
  }
  write(directory);
}

function write(directory) {
  const parts = [['slack-', 'Slack', 'Drawn by `halo-relay render --html`.'], ['teams-', 'Microsoft Teams', "Drawn by Microsoft's renderer of Adaptive Cards."],
    ['email-', 'Mail', 'In Chromium.'], ['webhook-', 'Webhook', 'What is posted, signed.'], ['', 'Other services', 'Drawn by `halo-relay render --html`, nearly as they do.']];
  const left = [...taken];
  const text = parts.map(([start, title, how]) => {
    const own = left.filter(({ name }) => name.startsWith(start));
    own.forEach((one) => left.splice(left.indexOf(one), 1));
    return own.length ? `\n## ${title}\n\n${how}\n${own.map(({ name, alt }) => `\n${alt.split(': ').slice(1).join(': ')}:\n\n![${alt}](gallery/${name}.png)\n`).join('')}` : '';
  });
  const page = `# What people see\n\nThe built-in messages of some sample events. \`.ci/messages/run --gallery\` takes these pictures and writes this page; do not edit it\nby hand. Look at yours with \`halo-relay render --key website-cert-expired --to DESTINATION --open\`.\n${text.join('')}`;
  writeFileSync(`${directory}.md`, page);
  console.log(`Pictures: ${taken.length}`);
}
